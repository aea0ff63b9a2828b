//! Files that are there whole or not at all. A path and bytes flow in; a synced file under its final name flows out.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Writes under a temporary name (`.part` appended), syncs and renames, so that nobody ever sees half of it.
///
/// # Errors
/// What the system says; the file that was there before is untouched.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, path)
}
