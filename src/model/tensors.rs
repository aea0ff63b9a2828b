//! A safetensors file written from front to back, so that no more than one tensor's part is ever in memory. Names, types and
//! shapes flow in first, then the bytes; a synced file flows out.

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// A tensor to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Sizes; none for a single number.
    pub shape: Vec<usize>,
}

impl Entry {
    /// Its size.
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// The open file.
pub struct TensorWriter {
    file: BufWriter<File>,
    left: usize,
}

impl TensorWriter {
    /// Writes the header; the bytes of the tensors must follow in the order of `entries`.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: &Path, entries: &[Entry]) -> io::Result<TensorWriter> {
        let (mut header, mut at) = (Map::new(), 0);
        for entry in entries {
            let (start, end) = (at, at + entry.bytes());
            let about = json!({"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, end]});
            header.insert(entry.name.clone(), about);
            at = end;
        }
        let mut header = Value::Object(header).to_string();
        // Data begins at a multiple of 64, the eight bytes of the length counted in.
        let length = (header.len() + 8).next_multiple_of(64) - 8;
        header.extend(std::iter::repeat_n(' ', length - header.len()));
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        Ok(TensorWriter { file, left: at })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// What the system says, or more bytes than the header announced.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::InvalidData)?;
        self.file.write_all(bytes)
    }

    /// Syncs the file.
    ///
    /// # Errors
    /// What the system says, or fewer bytes than the header announced.
    pub fn finish(self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn what_was_announced_is_what_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let entry = |name: &str, dtype, shape: &[usize]| Entry { name: name.into(), dtype, shape: shape.to_vec() };
        let entries = [entry("b", Dtype::F8_E4M3, &[3]), entry("a", Dtype::F32, &[]), entry("c", Dtype::U8, &[0])];
        let mut file = TensorWriter::create(&path, &entries).unwrap();
        file.write(&[1, 2]).unwrap();
        file.write(&[3]).unwrap();
        file.write(&1.5f32.to_le_bytes()).unwrap();
        assert!(file.write(&[0]).is_err());
        let mut file = TensorWriter::create(&path, &entries).unwrap();
        file.write(&[1, 2, 3]).unwrap();
        file.write(&1.5f32.to_le_bytes()).unwrap();
        file.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("b").unwrap().data(), [1, 2, 3]);
        assert_eq!(tensors.tensor("a").unwrap().data(), 1.5f32.to_le_bytes());
        let short = TensorWriter::create(&path, &entries).unwrap();
        assert!(short.finish().is_err());
    }
}
