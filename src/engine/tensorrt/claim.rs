//! The folder that a build writes: held by one builder at a time, and left as it was found if the build does not end well. A path
//! flows in; files flow out, or none.

use super::{TrtError, at, shelf};
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// A folder that nobody else builds in. Dropped before [`Claim::keep`], it removes what appeared in it meanwhile.
pub struct Claim {
    folder: PathBuf,
    /// Folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
    /// What lay in it before.
    before: BTreeSet<String>,
    kept: bool,
    /// The folder itself, locked; the system lets go of it however this process ends.
    _lock: Option<File>,
}

impl Claim {
    /// Makes the folder if it is not there, keeps other builders out, and removes what an interrupted build left.
    ///
    /// # Errors
    /// It cannot be made or read, or a build is writing there.
    pub fn take(folder: &Path) -> Result<Claim, TrtError> {
        if folder.exists() && !folder.is_dir() {
            return Err(TrtError::Stale(format!("{}: is a file; --out names a folder", folder.display())));
        }
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made = folder.ancestors().take_while(missing).map(Path::to_owned).collect();
        std::fs::create_dir_all(folder).map_err(at(folder))?;
        // Until it is ours, what lies there is none of our business.
        let lock = lock(folder)?;
        shelf::prune(folder)?;
        let before = shelf::files(folder).collect();
        Ok(Claim { folder: folder.to_owned(), made, before, kept: false, _lock: lock })
    }

    /// What was written stays.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // A file that cannot be removed is removed by the next build or by `sage engine prune`.
        for name in shelf::files(&self.folder).filter(|name| !self.before.contains(name) && shelf::is_ours(name)) {
            let _ = std::fs::remove_file(self.folder.join(name));
        }
        // Folders in which something else was put meanwhile stay.
        for folder in &self.made {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Keeps other builders out of a folder as long as the answer lives; none where the file system knows no locks.
///
/// # Errors
/// Another one is at work there, or the folder cannot be opened.
pub fn lock(folder: &Path) -> Result<Option<File>, TrtError> {
    let file = File::open(folder).map_err(at(folder))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let text =
                format!("{}: another build is writing there; wait for it, or give another folder", folder.display());
            Err(TrtError::Stale(text))
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = shelf::files(folder).collect();
        names.sort();
        names
    }

    #[test]
    fn a_build_that_ends_badly_leaves_the_folder_as_it_was() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("robots/first");
        let claim = Claim::take(&folder).expect("taken");
        for name in ["model-0123456789ab.plan", "timing.cache", "tokenizer.json"] {
            std::fs::write(folder.join(name), "new").expect("written");
        }
        drop(claim);
        assert!(!root.path().join("robots").exists(), "folders made for it go too");

        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("tokenizer.json"), "old").expect("written");
        let claim = Claim::take(&folder).expect("taken");
        for name in ["model-0123456789ab.plan", "model.onnx", "notes.txt"] {
            std::fs::write(folder.join(name), "new").expect("written");
        }
        drop(claim);
        assert_eq!(names(&folder), ["notes.txt", "tokenizer.json"], "what is not ours stays");

        let claim = Claim::take(&folder).expect("taken");
        std::fs::write(folder.join("model-0123456789ab.plan"), "new").expect("written");
        claim.keep();
        assert!(folder.join("model-0123456789ab.plan").exists());
    }

    #[test]
    fn one_builder_at_a_time_and_what_a_killed_one_left_is_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path();
        for name in ["model-0-of-2-0123456789ab.plan", "model-1-of-2-0123456789ab.plan.part", "rewritten.weights.part"]
        {
            std::fs::write(folder.join(name), "half").expect("written");
        }
        std::fs::write(folder.join("model.plan"), "of trtexec").expect("written");
        let claim = Claim::take(folder).expect("taken");
        assert_eq!(names(folder), ["model.plan"]);
        std::fs::write(folder.join("model-0123456789ab.plan"), "of the first builder").expect("written");
        let refused = Claim::take(folder).err().expect("held").to_string();
        assert!(refused.contains("another build is writing there"), "{refused}");
        assert!(folder.join("model-0123456789ab.plan").exists(), "the one who is refused removes nothing");
        drop(claim);
        Claim::take(folder).expect("free again");
        let refused = Claim::take(&folder.join("model.plan")).err().expect("a file").to_string();
        assert!(refused.contains("is a file"), "{refused}");
    }
}
