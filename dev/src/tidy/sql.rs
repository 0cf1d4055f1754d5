//! Checks the files of SQL functions: each function is short, and stands in one file only.

use std::{collections::BTreeMap, path::Path};

use crate::tidy::File;

/// The folder of the files.
const FOLDER: &str = "core/sql/functions/";
/// A function has at most this many lines.
const FUNCTION_LINES_MAX: usize = 70;

/// A function as it stands in a file.
#[derive(Debug, PartialEq, Eq)]
struct Function<'a> {
    name: &'a str,
    lines: usize,
}

/// Every function that is too long or stands in two files, a line each.
pub(super) fn breaches(files: &[File]) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut homes: BTreeMap<&str, &str> = BTreeMap::new();
    let is_sql = |name: &str| Path::new(name).extension().is_some_and(|extension| extension == "sql");
    for (file, text) in files.iter().filter(|(file, _)| is_sql(file)) {
        for Function { name, lines } in functions(text) {
            if file.starts_with(FOLDER) && lines > FUNCTION_LINES_MAX {
                breaches.push(format!("{file}: {name} has {lines} lines, {FUNCTION_LINES_MAX} at most"));
            }
            let home = homes.entry(name).or_insert(file);
            if *home != file {
                breaches.push(format!("{file}: {name} stands in {home} too"));
            }
        }
    }
    breaches
}

/// The functions that a text creates, each from `CREATE` to the semicolon behind its body.
fn functions(text: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = created(line) else { continue };
        let mut function = Function { name, lines: 1 };
        let mut body = Body::default();
        let mut is_over = body.ends_in(line);
        while !is_over {
            let Some(line) = lines.next() else { break };
            function.lines += 1;
            is_over = body.ends_in(line);
        }
        found.push(function);
    }
    found
}

/// The name of the function or procedure whose creation begins in this line.
fn created(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("CREATE ")?;
    let rest = rest.strip_prefix("OR REPLACE ").unwrap_or(rest);
    let rest = rest.strip_prefix("FUNCTION ").or_else(|| rest.strip_prefix("PROCEDURE "))?;
    rest.split(['(', ' ']).next()
}

/// How far a function has been read: before its body, in it, or behind it. The mark that begins the body also ends it.
#[derive(Default)]
struct Body<'a> {
    mark: Option<&'a str>,
}

impl<'a> Body<'a> {
    /// Whether the statement ends in this line.
    fn ends_in(&mut self, line: &'a str) -> bool {
        let mut rest = line;
        loop {
            if let Some(mark) = self.mark {
                let Some(end) = rest.find(mark) else { return false };
                rest = &rest[end + mark.len()..];
                self.mark = None;
            }
            let semicolon = rest.find(';');
            match dollar_mark(rest) {
                Some((start, mark)) if semicolon.is_none_or(|semicolon| start < semicolon) => {
                    self.mark = Some(mark);
                    rest = &rest[start + mark.len()..];
                }
                _ => return semicolon.is_some(),
            }
        }
    }
}

/// The first `$$` or `$word$` of a text, and its position.
fn dollar_mark(text: &str) -> Option<(usize, &str)> {
    let start = text.find('$')?;
    let length = text[start + 1..].find('$')? + 2;
    Some((start, &text[start..start + length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_from_beginning_to_end() {
        let cases: [(&str, &[(&str, usize)]); 6] = [
            ("SELECT 1;\n", &[]),
            ("CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS $$ SELECT 1; $$;\n", &[("f", 1)]),
            (
                "-- why\nCREATE OR REPLACE FUNCTION f(\n    a integer\n) AS $$\n    SELECT 1;\n$$;\n\nSELECT 2;\n",
                &[("f", 5)],
            ),
            ("CREATE FUNCTION f() AS $body$\n  x := $$;$$;\n$body$ LANGUAGE plpgsql;\n", &[("f", 3)]),
            (
                "CREATE FUNCTION f() AS $$\n$$;\nCREATE PROCEDURE g() AS $$\n\n$$\nLANGUAGE sql;\n",
                &[("f", 2), ("g", 4)],
            ),
            ("CREATE TABLE t (id integer);\nCREATE TRIGGER x EXECUTE FUNCTION f();\n", &[]),
        ];
        for (text, expected) in cases {
            let found: Vec<_> = functions(text).iter().map(|found| (found.name, found.lines)).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn long_functions_and_second_homes_are_found() {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let long = |lines: usize| format!("CREATE FUNCTION f() AS $$\n{}$$;\n", "\n".repeat(lines - 2));
        let functions = "core/sql/functions/f.sql";
        let cases: [(Vec<File>, &[&str]); 5] = [
            (vec![file(functions, &long(70))], &[]),
            (vec![file(functions, &long(71))], &["core/sql/functions/f.sql: f has 71 lines, 70 at most"]),
            (vec![file("migrations/1.sql", &long(71))], &[]),
            (
                vec![file(functions, &long(2)), file("migrations/1.sql", &long(2))],
                &["migrations/1.sql: f stands in core/sql/functions/f.sql too"],
            ),
            // Two functions of one name in one file are allowed, because they take different arguments.
            (vec![file(functions, &format!("{}{}", long(2), long(3)))], &[]),
        ];
        for (files, expected) in cases {
            assert_eq!(breaches(&files), expected, "{files:?}");
        }
    }
}
