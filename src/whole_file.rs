//! Files that are there whole or not at all. A path and bytes flow in; a synced file under its final name flows out.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Writes under a temporary name (`.part` appended), syncs and renames, so that nobody ever sees half of it.
///
/// # Errors
/// What the system says; the file that was there before is untouched, and nothing is left beside it.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let mut file = File::create(&part)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // What said no first is what is told.
        let _ = std::fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        // A folder that is not empty cannot be replaced by a file.
        let path = folder.path().join("name");
        std::fs::create_dir_all(path.join("inside")).expect("made");
        write(&path, b"whole").expect_err("a folder is in its place");
        let names: Vec<_> = std::fs::read_dir(folder.path()).expect("read").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["name"]);
        write(&folder.path().join("other"), b"whole").expect("written");
        assert_eq!(std::fs::read(folder.path().join("other")).expect("read"), b"whole");
        assert!(!folder.path().join("other.part").exists());
    }
}
