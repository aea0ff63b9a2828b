//! Finds an installed TensorRT. A folder or nothing flows in; a loaded library flows out, or one line that says what is missing
//! and how to get it.

use super::TrtError;
use super::abi::Library;
use std::path::{Path, PathBuf};

/// Names of library and parser, the most wanted first.
const NAMES: [(&str, &str); 3] = [
    ("libnvinfer.so.10", "libnvonnxparser.so.10"),
    ("libnvinfer.so.11", "libnvonnxparser.so.11"),
    ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
];

/// How to get one.
pub const ADVICE: &str = "on a Jetson `apt install tensorrt` of JetPack 7; elsewhere `pip download tensorrt_rtx_cu13_libs`, unzip it and \
                      name the folder with --tensorrt or SAGE_TENSORRT";

/// Loads TensorRT from `folder`, else from `SAGE_TENSORRT`, else from where the system looks.
///
/// # Errors
/// None is there, or the one that is there cannot be used.
pub fn find(folder: Option<&Path>) -> Result<Library, TrtError> {
    let named = folder.map(Path::to_owned).or_else(|| std::env::var_os("SAGE_TENSORRT").map(PathBuf::from));
    for (library, parser) in NAMES {
        let place = |name: &str| named.as_ref().map_or_else(|| PathBuf::from(name), |folder| folder.join(name));
        let (library, parser) = (place(library), place(parser));
        if named.is_some() && !library.is_file() {
            continue;
        }
        match Library::open(&library, Some(&parser)) {
            Err(TrtError::NotThere(_)) if named.is_none() => {}
            found => return found,
        }
    }
    let place = named.map_or("on this machine".to_owned(), |folder| format!("in {}", folder.display()));
    Err(TrtError::NotThere(format!("none was found {place}; {ADVICE}")))
}

/// Every TensorRT that is found in the folder, or on the system, also those that only run engines.
pub fn all(folder: Option<&Path>) -> Vec<(String, Result<Library, TrtError>)> {
    let named = folder.map(Path::to_owned).or_else(|| std::env::var_os("SAGE_TENSORRT").map(PathBuf::from));
    let names = NAMES.iter().map(|(library, _)| *library).chain(["libnvinfer_lean.so.10", "libnvinfer_lean.so.11"]);
    let place = |name: &str| named.as_ref().map_or_else(|| PathBuf::from(name), |folder| folder.join(name));
    names
        .filter(|name| named.is_none() || place(name).is_file())
        .map(|name| (name.to_owned(), Library::open(&place(name), None)))
        .filter(|(_, found)| named.is_some() || !matches!(found, Err(TrtError::NotThere(_))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_it_is_told_in_one_line_how_to_get_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = find(Some(folder.path())).err().expect("nothing is there").to_string();
        assert!(error.contains("none was found") && error.contains("tensorrt_rtx_cu13_libs"), "{error}");
        assert_eq!(error.lines().count(), 1);
        // A file of that name that is no library is named.
        std::fs::write(folder.path().join("libnvinfer.so.10"), "no library").expect("written");
        let error = find(Some(folder.path())).err().expect("no library").to_string();
        assert!(error.contains("libnvinfer.so.10"), "{error}");
    }
}
