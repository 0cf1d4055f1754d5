//! The files of an archive. Each is written under another name, forced to disk, and renamed when it is complete, after
//! its checksum; so where there is a file it is whole, whatever happened meanwhile. The checksum is in the form that
//! `sha256sum --check` reads.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// The end of the name of each file.
const SUFFIX: &str = ".ndjson.gz";
/// The end of the name of a checksum, after the name of its file.
const CHECKSUM: &str = ".sha256";
/// The end of the name of what is not complete.
const PARTIAL: &str = ".partial";
/// The name of a file that is made and removed again, to see whether that can be done.
const PROBE: &str = ".probe";

/// What a writer is sent.
#[derive(Debug)]
pub(super) enum Entry {
    /// A row as JSON.
    Row(String),
    /// There are no more rows.
    End,
}

/// Makes a file in the folder and removes it again.
pub(super) fn probe(folder: &Path) -> io::Result<()> {
    let path = folder.join(PROBE);
    let mut file = File::create(&path)?;
    let written = file.write_all(b"?").and_then(|()| file.sync_all());
    fs::remove_file(&path)?;
    written
}

/// Writes what is received to a file that has the name of the table, until the end; returns its path. If the rows break
/// off or the disk refuses, nothing is left.
pub(super) fn write(folder: &Path, table: &str, rows: mpsc::Receiver<Entry>) -> io::Result<PathBuf> {
    let partial = folder.join(format!("{table}{SUFFIX}{PARTIAL}"));
    // What a killed process has left is begun anew, but not what a living one is writing.
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&partial)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            return Err(io::Error::other(format!("another process is writing {}", partial.display())));
        }
        // Some file systems know no locks.
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    let placed = fill(file, rows).and_then(|digest| place(folder, table, &partial, &digest));
    if placed.is_err() {
        let _ = fs::remove_file(&partial);
    }
    placed
}

/// Writes compressed lines to the file and forces it to disk; returns the checksum in hexadecimal.
fn fill(file: File, mut rows: mpsc::Receiver<Entry>) -> io::Result<String> {
    file.set_len(0)?;
    let mut gzip = GzEncoder::new(Hashing { inner: BufWriter::new(file), hash: Sha256::new() }, Compression::default());
    loop {
        match rows.blocking_recv() {
            Some(Entry::Row(row)) => {
                gzip.write_all(row.as_bytes())?;
                gzip.write_all(b"\n")?;
            }
            Some(Entry::End) => break,
            None => return Err(io::Error::new(io::ErrorKind::Interrupted, "reading the rows broke off")),
        }
    }
    let Hashing { inner, hash } = gzip.finish()?;
    inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(hex::encode(hash.finalize()))
}

/// Gives a complete file its name, and makes its checksum before. If a file of that name has another content, it was
/// made of another table of that name, for example before a backup was restored; then the next free number is added.
fn place(folder: &Path, table: &str, partial: &Path, digest: &str) -> io::Result<PathBuf> {
    for number in 1_u32.. {
        let name = if number == 1 { format!("{table}{SUFFIX}") } else { format!("{table}.{number}{SUFFIX}") };
        let path = folder.join(&name);
        if path.try_exists()? {
            if digest_of(&path)? == digest {
                fs::remove_file(partial)?;
                write_checksum(folder, &name, digest)?;
                return Ok(path);
            }
            continue;
        }
        write_checksum(folder, &name, digest)?;
        fs::rename(partial, &path)?;
        File::open(folder)?.sync_all()?;
        return Ok(path);
    }
    Err(io::Error::other("there is no free name"))
}

fn write_checksum(folder: &Path, name: &str, digest: &str) -> io::Result<()> {
    let path = folder.join(format!("{name}{CHECKSUM}"));
    let partial = folder.join(format!("{name}{CHECKSUM}{PARTIAL}"));
    let mut file = File::create(&partial)?;
    let written = writeln!(file, "{digest}  {name}").and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&partial, &path)) {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn digest_of(path: &Path) -> io::Result<String> {
    let mut hash = Hashing { inner: io::sink(), hash: Sha256::new() };
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hex::encode(hash.hash.finalize()))
}

/// Reads every file of the archive in this folder. Of each it returns the name, and how many rows it holds or what is
/// wrong with it. A checksum whose file is missing counts as a damaged file.
///
/// # Errors
/// When the folder cannot be read.
pub fn verify(folder: &Path) -> io::Result<Vec<(String, Result<u64, String>)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        match name.strip_suffix(CHECKSUM) {
            Some(of) if of.ends_with(SUFFIX) => names.push(of.to_owned()),
            None if name.ends_with(SUFFIX) => names.push(name),
            _ => {}
        }
    }
    names.sort();
    names.dedup();
    Ok(names.into_iter().map(|name| (name.clone(), verify_file(folder, &name))).collect())
}

fn verify_file(folder: &Path, name: &str) -> Result<u64, String> {
    let checksum = fs::read_to_string(folder.join(format!("{name}{CHECKSUM}")));
    let checksum = checksum.map_err(|error| format!("its checksum cannot be read: {error}"))?;
    let file = File::open(folder.join(name)).map_err(|error| error.to_string())?;
    let mut reading = HashingReader { inner: BufReader::new(file), hash: Sha256::new() };
    let counted = count_lines(&mut reading);
    // What follows the compressed data belongs to the checksum, too.
    io::copy(&mut reading, &mut io::sink()).map_err(|error| error.to_string())?;
    let is_same = checksum.split_whitespace().next() == Some(&*hex::encode(reading.hash.finalize()));
    match counted {
        _ if !is_same => Err("it does not fit its checksum".to_owned()),
        Ok(rows) => Ok(rows),
        Err(error) => Err(format!("it cannot be decompressed: {error}")),
    }
}

fn count_lines(reading: &mut impl Read) -> io::Result<u64> {
    let (mut lines, mut rows) = (BufReader::new(MultiGzDecoder::new(reading)), 0);
    loop {
        let chunk = lines.fill_buf()?;
        if chunk.is_empty() {
            return Ok(rows);
        }
        rows += chunk.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        let length = chunk.len();
        lines.consume(length);
    }
}

/// Passes on what is written, and hashes it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Passes on what is read, and hashes it.
struct HashingReader<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
