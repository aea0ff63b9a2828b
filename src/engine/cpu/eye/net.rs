//! The eye's network: weights as trained flow in, and a list of operations over fixed buffers, cut into steps of bounded work, flows out.
//! Running all steps turns a reduced picture into heat, box sides and log metres on a 40x30 grid. Nothing is allocated while running.

use std::collections::BTreeMap;

use super::input;
use super::kernel::{Conv, Shape};
use crate::engine::cpu::simd::Simd;

/// Rows of the output grid.
pub const GRID_H: usize = 30;
/// Columns of the output grid.
pub const GRID_W: usize = 40;
/// Steps of one frame.
pub const STEPS: usize = 5;

/// Shape of the output grid: 9 numbers a cell used (4 heat logits, 4 log sides in cells, log metres), 16 stored.
pub const GRID: Shape = Shape { height: GRID_H, width: GRID_W, channels: 16 };

/// A named tensor: its shape and numbers.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// One operation; the numbers are buffers.
enum Operation {
    /// A layer from a buffer to a buffer, with another added before the ReLU.
    Layer { layer: usize, from: usize, to: usize, add: Option<usize> },
    /// Adds a buffer, doubled in size by repetition, to another.
    AddDoubled { from: usize, to: usize },
}

/// The network: layers, the order they run in, and where steps end.
pub struct Network {
    layers: Vec<Conv>,
    operations: Vec<Operation>,
    /// Index after the last operation of each step.
    ends: [usize; STEPS],
    shapes: Vec<Shape>,
    simd: Simd,
}

/// The buffers of one frame being worked on.
pub struct Activations {
    buffers: Vec<Vec<f32>>,
    small: Vec<u8>,
}

impl Activations {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.buffers.iter().map(|b| b.len() * 4).sum::<usize>() + self.small.len()) as u64
    }
}

/// What is wrong with a set of weights.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A tensor is absent.
    #[error("the tensor `{0}` is missing")]
    Missing(String),
    /// A tensor has another shape than the network's.
    #[error("the tensor `{0}` has the wrong shape")]
    WrongShape(String),
}

/// Builds the list of operations.
struct Plan<'a> {
    tensors: &'a Tensors,
    simd: Simd,
    layers: Vec<Conv>,
    operations: Vec<Operation>,
    shapes: Vec<Shape>,
}

impl Plan<'_> {
    fn layer(
        &mut self,
        name: &str,
        from: usize,
        outputs: usize,
        stride: usize,
        relu: bool,
        add: Option<usize>,
    ) -> Result<usize, NetworkError> {
        let tensor = |part: &str| {
            let key = format!("{name}.{part}");
            self.tensors.get(&key).ok_or(NetworkError::Missing(key))
        };
        let ((dims, weights), (_, bias)) = (tensor("weight")?, tensor("bias")?);
        let wrong = || NetworkError::WrongShape(name.to_string());
        if bias.len() != outputs || dims.len() != 4 {
            return Err(wrong());
        }
        let conv = Conv::new(self.simd, self.shapes[from], weights, bias, dims[2], stride, relu).ok_or_else(wrong)?;
        self.shapes.push(conv.to());
        let (layer, to) = (self.layers.len(), self.shapes.len() - 1);
        self.layers.push(conv);
        self.operations.push(Operation::Layer { layer, from, to, add });
        Ok(to)
    }

    /// A stage up to the residual block's end.
    fn residual(&mut self, name: &str, x: usize) -> Result<usize, NetworkError> {
        let c = self.shapes[x].channels;
        let a = self.layer(&format!("{name}.a"), x, c, 1, true, None)?;
        self.layer(&format!("{name}.b"), a, c, 1, true, Some(x))
    }
}

impl Network {
    /// Builds the network for a kernel set from the folded weights of `engines/eye/network.py`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(tensors: &Tensors, simd: Simd) -> Result<Self, NetworkError> {
        let picture = Shape { height: input::HEIGHT, width: input::WIDTH, channels: 3 };
        let mut p = Plan { tensors, simd, layers: Vec::new(), operations: Vec::new(), shapes: vec![picture] };
        let mut ends = [0; STEPS];
        let stem = p.layer("stem", 0, 16, 2, true, None)?;
        let d4 = p.layer("d4", stem, 32, 2, true, None)?;
        let a4 = p.layer("r4.a", d4, 32, 1, true, None)?;
        ends[0] = p.operations.len();
        let f4 = p.layer("r4.b", a4, 32, 1, true, Some(d4))?;
        let d8 = p.layer("d8", f4, 64, 2, true, None)?;
        ends[1] = p.operations.len();
        let f8 = p.residual("r8", d8)?;
        ends[2] = p.operations.len();
        let d16 = p.layer("d16", f8, 96, 2, true, None)?;
        let f16 = p.residual("r16", d16)?;
        let d32 = p.layer("d32", f16, 128, 2, true, None)?;
        let f32 = p.residual("r32", d32)?;
        ends[3] = p.operations.len();
        let mut y = p.layer("l32", f32, 32, 1, false, None)?;
        for (lateral, merge, f) in [("l16", Some("m16"), f16), ("l8", Some("m8"), f8), ("l4", None, f4)] {
            let to = p.layer(lateral, f, 32, 1, false, None)?;
            p.operations.push(Operation::AddDoubled { from: y, to });
            y = if let Some(m) = merge { p.layer(m, to, 32, 1, true, None)? } else { to };
        }
        let head = p.layer("head", y, 48, 1, true, None)?;
        p.layer("out", head, 9, 1, false, None)?;
        ends[4] = p.operations.len();
        Ok(Self { layers: p.layers, operations: p.operations, ends, shapes: p.shapes, simd })
    }

    /// The kernel set.
    #[must_use]
    pub fn simd(&self) -> Simd {
        self.simd
    }

    /// Bytes of weights as packed.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.layers.iter().map(Conv::bytes).sum()
    }

    /// Buffers for one frame.
    #[must_use]
    pub fn activations(&self) -> Activations {
        Activations {
            buffers: self.shapes.iter().map(|s| vec![0.0; s.numbers()]).collect(),
            small: vec![0; input::WIDTH * input::HEIGHT * 3],
        }
    }

    /// Reduces a 640x480 picture into the buffers.
    pub fn feed(&self, rgb: &[u8], a: &mut Activations) {
        input::reduce(rgb, &mut a.small);
        input::normalise(&a.small, self.shapes[0], &mut a.buffers[0]);
    }

    /// Takes a picture that is already reduced into the buffers.
    pub fn feed_reduced(&self, small: &[u8], a: &mut Activations) {
        input::normalise(small, self.shapes[0], &mut a.buffers[0]);
    }

    /// Runs step `step` of [`STEPS`]; asks `stop` before each operation and returns false if it said so. A step that was stopped is run again from its start.
    pub fn step(&self, step: usize, a: &mut Activations, stop: &dyn Fn() -> bool) -> bool {
        let Some(end) = self.ends.get(step) else { return true };
        let start = if step == 0 { 0 } else { self.ends[step - 1] };
        for op in &self.operations[start..*end] {
            if stop() {
                return false;
            }
            match *op {
                // A buffer is made from buffers before it only, so the list can be cut in two.
                Operation::Layer { layer, from, to, add } => {
                    let (before, after) = a.buffers.split_at_mut(to);
                    self.layers[layer].run(&before[from], add.map(|i| before[i].as_slice()), &mut after[0]);
                }
                Operation::AddDoubled { from, to } => {
                    let (before, after) = a.buffers.split_at_mut(to);
                    add_doubled(self.shapes[from], &before[from], self.shapes[to], &mut after[0]);
                }
            }
        }
        true
    }

    /// The output grid (of shape [`GRID`]) after the last step.
    #[must_use]
    pub fn grid<'a>(&self, a: &'a Activations) -> &'a [f32] {
        a.buffers.last().map_or(&[], Vec::as_slice)
    }
}

/// `to[y][x] += from[y / 2][x / 2]`: nearest upsampling.
fn add_doubled(small: Shape, from: &[f32], large: Shape, to: &mut [f32]) {
    let c = large.channels;
    for y in 0..large.height {
        for x in 0..large.width {
            let (i, o) = (small.at(y / 2, x / 2), large.at(y, x));
            for (t, f) in to[o..o + c].iter_mut().zip(&from[i..i + c]) {
                *t += f;
            }
        }
    }
}
