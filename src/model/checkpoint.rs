//! Weights in safetensors files, one or many, mapped into memory and never copied.
//! Flows in: a model directory. Flows out: [`Tensor`]s by name: type, shape and bytes inside the mapping.

use super::{ModelError, read_json};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the elements of a weight matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
    /// Whole numbers of 8 bits with a scale for each [`Element::scaled`] weights of a row, in blocks of [`BLOCK_ROWS`] rows.
    ///
    /// A block holds, for each of these runs, the bf16 scales of its rows, then the weights, `[column / 4][row][column % 4]`, one
    /// byte each, 128 more than its value. So one register of a matrix product holds four columns of 16 (8, 4) rows, and a
    /// product reads a block from its first to its last byte.
    Q8,
    /// As [`Element::Q8`] with 4 bits: the weights are, for each [`GROUP`], `[column / 4 of the first 16][row][column % 4]`; the
    /// low half of a byte is that column, the high half the column 16 further on, each 8 more than its value.
    Q4,
    /// 8 or 4 bits with scales in tensors of their own: see [`super::lowbit`]. No kernel reads it; rows are widened first.
    LowBit,
}

/// Neighbouring weights of a row whose products with activations are summed in whole numbers; rows of quantised matrices are
/// multiples of it.
pub const GROUP: usize = 32;

/// Weights of 8 bits that share a scale where rows are multiples of it. Their rounding is little either way, and a decoder is as
/// fast as it reads: 3 % fewer bytes a weight than with [`GROUP`].
const WIDE: usize = 128;

/// Rows of one block of a quantised matrix. Rows missing from the last block are stored as zeros.
pub const BLOCK_ROWS: usize = 16;

impl Element {
    /// Bytes of a row of `columns` weights; quantised rows are whole groups, and lie in blocks of [`BLOCK_ROWS`]. 0 for
    /// [`Element::LowBit`], whose rows lie differently in each format.
    pub const fn row_bytes(self, columns: usize) -> usize {
        match self {
            Element::Bf16 | Element::F16 => columns * 2,
            Element::F32 => columns * 4,
            Element::Q8 | Element::Q4 => {
                let scaled = self.scaled(columns);
                columns / scaled * (2 + self.whole_bytes(scaled))
            }
            Element::LowBit => 0,
        }
    }

    /// Neighbouring weights of a row of `columns` quantised weights that share a scale, whole [`GROUP`]s.
    pub const fn scaled(self, columns: usize) -> usize {
        if matches!(self, Element::Q8) && columns.is_multiple_of(WIDE) { WIDE } else { GROUP }
    }

    /// Bytes of `count` quantised weights without their scales.
    const fn whole_bytes(self, count: usize) -> usize {
        if matches!(self, Element::Q4) { count / 2 } else { count }
    }

    /// Whether rows lie in blocks of whole numbers.
    pub const fn is_quantised(self) -> bool {
        matches!(self, Element::Q8 | Element::Q4)
    }

    /// Bytes of the weights of one [`GROUP`] of a block of a quantised matrix.
    pub const fn group_bytes(self) -> usize {
        BLOCK_ROWS * self.whole_bytes(GROUP)
    }

    /// Where in a block of quantised rows the scales and the weights of a [`GROUP`] begin.
    #[inline(always)]
    pub const fn group_at(self, columns: usize, group: usize) -> (usize, usize) {
        // A shift, for a division would take as long as the group's product.
        let shared = (self.scaled(columns) / GROUP).trailing_zeros();
        let scales = (group >> shared) * BLOCK_ROWS * (2 + self.whole_bytes(GROUP << shared));
        let within = group - ((group >> shared) << shared);
        (scales, scales + BLOCK_ROWS * 2 + within * self.group_bytes())
    }

    /// Shape of the tensor of bytes that holds a quantised matrix: blocks, scales of a row of a block, bytes that a block has for
    /// each.
    pub const fn block_shape(self, rows: usize, columns: usize) -> [usize; 3] {
        let scaled = self.scaled(columns);
        [rows.div_ceil(BLOCK_ROWS), columns / scaled, BLOCK_ROWS * (2 + self.whole_bytes(scaled))]
    }
}

/// One tensor of a checkpoint; cloning shares the mapping.
#[derive(Clone)]
pub struct Tensor {
    map: Arc<Mmap>,
    file: Arc<Path>,
    range: Range<usize>,
    /// Element type in the file.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl Tensor {
    /// The tensor's bytes as stored, little-endian, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }

    /// The file that holds it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where its bytes begin in that file.
    pub fn offset_bytes(&self) -> u64 {
        self.range.start as u64
    }
}

/// All tensors of a model directory.
pub struct Checkpoint {
    directory: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    bytes: u64,
}

impl Checkpoint {
    /// Maps `model.safetensors`, or every file that `model.safetensors.index.json` names. Only headers are read.
    ///
    /// # Errors
    /// No such file, a header that does not parse, a file shorter than its header says, or a shard that lacks a tensor
    /// the index puts there.
    pub fn open(directory: &Path) -> Result<Checkpoint, ModelError> {
        let mut checkpoint = Checkpoint { directory: directory.to_owned(), tensors: BTreeMap::new(), bytes: 0 };
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        if single.is_file() {
            checkpoint.add_file(&single, |_| true)?;
        } else if index.is_file() {
            checkpoint.add_shards(&index)?;
        } else {
            let reason = "has neither model.safetensors nor model.safetensors.index.json; give a directory in Hugging Face layout";
            return Err(ModelError::invalid(directory, reason));
        }
        Ok(checkpoint)
    }

    fn add_shards(&mut self, index: &Path) -> Result<(), ModelError> {
        let json = read_json(index)?;
        let Some(map) = json.get("weight_map").and_then(|map| map.as_object()) else {
            return Err(ModelError::invalid(index, "has no `weight_map` object"));
        };
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in map {
            let plain = |file: &&str| !file.contains(['/', '\\']) && !matches!(*file, "" | "." | "..");
            let Some(file) = file.as_str().filter(plain) else {
                return Err(ModelError::invalid(index, format!("`{tensor}` is not mapped to a plain file name")));
            };
            files.entry(file).or_default().push(tensor);
        }
        for (file, tensors) in files {
            let path = self.directory.join(file);
            // Where a tensor lies in two files, the index says which is meant.
            self.add_file(&path, |name| map.get(name).is_none_or(|there| there == file))?;
            if let Some(missing) = tensors.iter().find(|name| !self.tensors.contains_key(**name)) {
                let reason = format!("lacks `{missing}`, which the index puts there; download the checkpoint again");
                return Err(ModelError::invalid(&path, reason));
            }
        }
        Ok(())
    }

    /// Adds the tensors of a file that are `meant`.
    fn add_file(&mut self, path: &Path, meant: impl Fn(&str) -> bool) -> Result<(), ModelError> {
        let read_error = |source| ModelError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read_error)?;
        // SAFETY: the mapping is read-only; as with every mapped file, a writer that truncates it while we run would
        // fault. Model files are installed whole and never edited in place.
        let map = unsafe { Mmap::map(&file) }.map_err(read_error)?;
        self.bytes += map.len() as u64;
        let map = Arc::new(map);
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
            ModelError::invalid(path, format!("is damaged or cut short ({error}); download it again"))
        })?;
        let data = header + 8;
        let file: Arc<Path> = path.into();
        for (name, info) in metadata.tensors().into_iter().filter(|(name, _)| meant(name)) {
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            let tensor = Tensor {
                map: Arc::clone(&map),
                file: Arc::clone(&file),
                range,
                dtype: info.dtype,
                shape: info.shape.clone(),
            };
            self.tensors.insert(name, tensor);
        }
        Ok(())
    }

    /// The directory the checkpoint was opened from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors with their names, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Bytes of all weight files.
    pub fn file_bytes(&self) -> u64 {
        self.bytes
    }
}
