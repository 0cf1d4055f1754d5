//! Checks which module of `core` imports which. The rooms stand on floors, an import runs only to a lower floor, and
//! the modules of one room import each other in no circle. It reads paths that begin with `crate::` or `super::`, and
//! skips tests.

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy::File;

/// The rooms of `core/src`, the lowest first. A room may import from those before it and from no other. A room is a
/// file, or a folder together with the file of the same name.
const FLOORS: [&str; 22] = [
    "text_enum",
    "id",
    "validation",
    "name",
    "error",
    "page",
    "database",
    "upkeep",
    "tally",
    "trust",
    "event",
    "announce",
    "live",
    "queue",
    "access",
    "subscription",
    "delivery",
    "stats",
    "accept",
    "emitter",
    "demo",
    "process",
];

/// Names that `lib.rs` exports from a room, each with that room.
const RE_EXPORTS: [(&str, &str); 2] = [("Error", "error"), ("Result", "error")];

const ROOT: &str = "core/src/";

/// Every import that runs upwards, and every circle within a room, a line each.
pub(super) fn breaches(files: &[File]) -> Vec<String> {
    breaches_on(&FLOORS, files)
}

fn breaches_on(floors: &[&str], files: &[File]) -> Vec<String> {
    let sources: BTreeMap<String, &str> = files
        .iter()
        .filter_map(|(name, text)| {
            let module = name.strip_prefix(ROOT)?.strip_suffix(".rs")?.replace('/', "::");
            let is_code = module != "lib" && !module.ends_with("::tests");
            is_code.then_some((module, text.as_str()))
        })
        .collect();
    let floor = |module: &str| floors.iter().position(|room| *room == room_of(module));
    let mut breaches = Vec::new();
    let mut inside: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (module, text) in &sources {
        let Some(own_floor) = floor(module) else {
            breaches.push(format!("{ROOT}{module}: its room is not in the table of dev/src/tidy/floors.rs"));
            continue;
        };
        for target in imports(module, text, &sources) {
            if room_of(&target) == room_of(module) {
                if !is_family(&target, module) {
                    inside.entry(module).or_default().insert(target);
                }
            } else if floor(&target).is_none_or(|floor| floor > own_floor) {
                breaches.push(format!("{ROOT}{module}: imports {target}, which stands on a floor above"));
            }
        }
    }
    breaches.extend(circles(&inside).into_iter().map(|circle| format!("{ROOT}: a circle: {}", circle.join(" -> "))));
    breaches
}

fn room_of(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// Whether both are the same module, or one of them is in the folder of the other.
fn is_family(one: &str, other: &str) -> bool {
    let is_below = |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with("::"));
    one == other || is_below(one, other) || is_below(other, one)
}

/// The modules that the text of a module imports.
fn imports(module: &str, text: &str, sources: &BTreeMap<String, &str>) -> BTreeSet<String> {
    let code: String = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut paths = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        let begins = !code[..start].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        if begins {
            expand(&mut code[start + "crate::".len()..].chars().peekable(), String::new(), &mut paths);
        }
    }
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    for (start, _) in code.match_indices("super::") {
        expand(&mut code[start + "super::".len()..].chars().peekable(), parent.to_owned(), &mut paths);
    }
    paths.iter().filter_map(|path| module_of(path, sources)).filter(|target| target != module).collect()
}

/// Reads the rest of a path. Where the path branches in braces, every branch is read. Each whole path is put into the
/// list.
fn expand(text: &mut std::iter::Peekable<std::str::Chars<'_>>, mut path: String, paths: &mut Vec<String>) {
    loop {
        while text.next_if(|next| next.is_whitespace()).is_some() {}
        if text.next_if_eq(&'{').is_some() {
            loop {
                expand(text, path.clone(), paths);
                // Skips to the end of this branch, where only `as` and a name may follow.
                while text.next_if(|next| !matches!(next, ',' | '}')).is_some() {}
                if text.next() != Some(',') {
                    return;
                }
            }
        }
        let mut name = String::new();
        while let Some(letter) = text.next_if(|next| next.is_alphanumeric() || *next == '_') {
            name.push(letter);
        }
        if !name.is_empty() && name != "self" {
            path = if path.is_empty() { name } else { format!("{path}::{name}") };
        }
        if text.next_if_eq(&':').is_none() {
            paths.push(path);
            return;
        }
        text.next_if_eq(&':');
    }
}

/// The module that a path leads to: the path itself, or the longest beginning of it that is a module.
fn module_of(path: &str, sources: &BTreeMap<String, &str>) -> Option<String> {
    if let Some((_, room)) = RE_EXPORTS.iter().find(|(name, _)| *name == path) {
        return Some((*room).to_owned());
    }
    let mut path = path;
    loop {
        if sources.contains_key(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// The circles among modules. Each is listed once, from the module that comes first in the alphabet and back to it.
fn circles(edges: &BTreeMap<&str, BTreeSet<String>>) -> Vec<Vec<String>> {
    fn walk(at: &str, way: &mut Vec<String>, edges: &BTreeMap<&str, BTreeSet<String>>, found: &mut Vec<Vec<String>>) {
        let first = way[0].clone();
        for next in edges.get(at).into_iter().flatten() {
            if *next == first {
                found.push(way.iter().cloned().chain([first.clone()]).collect());
            } else if *next > first && !way.contains(next) {
                way.push(next.clone());
                walk(next, way, edges, found);
                way.pop();
            }
        }
    }
    let mut found = Vec::new();
    for start in edges.keys() {
        walk(start, &mut vec![(*start).to_owned()], edges, &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modules, each with its text.
    type Sources<'a> = &'a [(&'a str, &'a str)];

    fn files(sources: Sources<'_>) -> Vec<File> {
        sources.iter().map(|(module, text)| (format!("{ROOT}{module}.rs"), (*text).to_owned())).collect()
    }

    #[test]
    fn imports_run_downwards_and_in_no_circle() {
        const LOW: (&str, &str) = ("low", "");
        let up = "core/src/low: imports high, which stands on a floor above";
        let cases: [(Sources<'_>, &[&str]); 12] = [
            (&[LOW, ("high", "use crate::low::Thing;")], &[]),
            (&[("low", "use crate::high::Thing;"), ("high", "")], &[up]),
            (&[("low", "fn f() -> crate::high::Thing {}"), ("high", "")], &[up]),
            (&[("low", "use crate::{\n    a::B,\n    high::{self, Thing as Other},\n};"), ("high", "")], &[up]),
            (&[("low", "// use crate::high::Thing;\n/// [`crate::high`]"), ("high", "")], &[]),
            (&[("low", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::high;\n}"), ("high", "")], &[]),
            (&[("low", "use super::high::Thing;"), ("high", "")], &[up]),
            (&[("other", "")], &["core/src/other: its room is not in the table of dev/src/tidy/floors.rs"]),
            // A parent and its child may import each other.
            (&[("low", "use crate::low::child::A;"), ("low/child", "use crate::low::B;")], &[]),
            (
                &[LOW, ("low/a", "use crate::low::b::B;"), ("low/b", "use super::a::A;")],
                &["core/src/: a circle: low::a -> low::b -> low::a"],
            ),
            (
                &[LOW, ("low/a", "use super::b::B;"), ("low/b", "use super::c::C;"), ("low/c", "use super::a::A;")],
                &["core/src/: a circle: low::a -> low::b -> low::c -> low::a"],
            ),
            (&[LOW, ("low/a", "use crate::{Error, low::b::B};"), ("low/b", ""), ("error", "")], &[]),
        ];
        for (sources, expected) in cases {
            assert_eq!(breaches_on(&["error", "low", "high"], &files(sources)), expected, "{sources:?}");
        }
    }
}
