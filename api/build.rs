//! Makes release builds embed what the dashboard loads, and stops them with one clear message where it has not been
//! fetched. Debug builds read it when they start, so they need nothing here.

use std::{env, fs, path::Path};

#[path = "src/ui/sprite.rs"]
mod sprite;

/// The script of htmx below `node_modules`.
const HTMX: &str = "htmx.org/dist/htmx.min.js";

#[expect(clippy::disallowed_methods, reason = "cargo tells build scripts by variables where they are")]
fn main() {
    println!("cargo::rerun-if-changed=src/ui/sprite.rs");
    if env::var_os("CARGO_CFG_DEBUG_ASSERTIONS").is_some() {
        return;
    }
    // Only here: a debug build must not begin anew because its libraries have been fetched meanwhile.
    println!("cargo::rerun-if-changed=ui");
    let modules = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("ui/node_modules");
    let icons = sprite::make(&modules.join(sprite::FOLDER));
    let is_complete = modules.join(HTMX).is_file();
    match icons {
        Ok(icons) if is_complete => {
            let target = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("icons.svg");
            fs::write(target, icons).expect("the folder of a build can be written to");
        }
        Ok(_) | Err(_) => println!(
            "cargo::error=a release embeds the dashboard's libraries, which are not there yet: run `npm ci --omit=dev \
             --ignore-scripts` in the folder api/ui, and build again"
        ),
    }
}
