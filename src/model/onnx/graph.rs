//! Builds an ONNX graph node by node. Names of values flow in; names of new values flow out, and at the end the whole graph
//! with every weight as a reference into the checkpoint's own files.

use super::proto::{
    Attribute, DataType, Dimension, Entry, Graph, Model, Node, OperatorSet, Shape, Size, Tensor, TensorType, Type,
    ValueInfo,
};
use std::collections::BTreeSet;

/// Domain of the operators that only TensorRT has.
const TENSORRT: &str = "trt";

/// Name of a value in the graph.
pub type Value = String;

/// One size of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Always the same.
    Fixed(usize),
    /// Chosen at each call; equal names are equal sizes.
    Named(&'static str),
}

/// Where a weight's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// File name beside the model.
    pub file: String,
    /// First byte.
    pub offset_bytes: u64,
    /// Bytes.
    pub length_bytes: u64,
}

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
    constants: BTreeSet<String>,
    count: usize,
}

impl Builder {
    /// Adds a node with one output and returns the output's name.
    pub fn op(&mut self, kind: &str, inputs: &[&str], attributes: Vec<Attribute>) -> Value {
        self.count += 1;
        let output = format!("{}_{}", kind.to_lowercase(), self.count);
        self.op_named(kind, inputs, attributes, &output);
        output
    }

    /// Adds a node whose one output is called `output`.
    pub fn op_named(&mut self, kind: &str, inputs: &[&str], attributes: Vec<Attribute>, output: &str) {
        self.node("", kind, inputs, attributes, vec![output.to_owned()]);
    }

    /// Adds a node of TensorRT's own domain with two outputs and returns their names.
    pub fn op_of_tensorrt(&mut self, kind: &str, inputs: &[&str], attributes: Vec<Attribute>) -> [Value; 2] {
        self.count += 1;
        let outputs = [0, 1].map(|which| format!("{}_{}_{which}", kind.to_lowercase(), self.count));
        self.node(TENSORRT, kind, inputs, attributes, outputs.to_vec());
        outputs
    }

    fn node(&mut self, domain: &str, kind: &str, inputs: &[&str], attribute: Vec<Attribute>, output: Vec<String>) {
        self.graph.node.push(Node {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            name: format!("{}.node", output[0]),
            output,
            op_type: kind.to_owned(),
            attribute,
            domain: domain.to_owned(),
        });
    }

    /// A constant of whole numbers, `[length]`; the same name is stored once.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> Value {
        self.ints_of_shape(name, &[values.len()], values)
    }

    /// A constant of whole numbers; the same name is stored once.
    pub fn ints_of_shape(&mut self, name: &str, shape: &[usize], values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, DataType::Int64, shape, bytes)
    }

    /// A constant of numbers of type `kind`; the same name is stored once.
    pub fn numbers(&mut self, name: &str, kind: DataType, shape: &[usize], values: &[f32]) -> Value {
        let mut bytes = Vec::with_capacity(values.len() * 4);
        for &value in values {
            match kind {
                DataType::Float16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                DataType::Bfloat16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
                _ => bytes.extend(value.to_le_bytes()),
            }
        }
        self.constant(name, kind, shape, bytes)
    }

    /// A zero of type `kind`, which is one byte; the same name is stored once.
    pub fn zero(&mut self, name: &str, kind: DataType) -> Value {
        self.constant(name, kind, &[], vec![0])
    }

    fn constant(&mut self, name: &str, kind: DataType, shape: &[usize], bytes: Vec<u8>) -> Value {
        if self.constants.insert(name.to_owned()) {
            self.graph.initializer.push(Tensor {
                dims: shape.iter().map(|&size| size as i64).collect(),
                data_type: kind as i32,
                name: name.to_owned(),
                raw_data: Some(bytes),
                ..Tensor::default()
            });
        }
        name.to_owned()
    }

    /// A weight that stays where it is; the same name is stored once.
    pub fn weight(&mut self, name: &str, kind: DataType, shape: &[usize], at: &Location) -> Value {
        if self.constants.insert(name.to_owned()) {
            let entry = |key: &str, value: String| Entry { key: key.to_owned(), value };
            self.graph.initializer.push(Tensor {
                dims: shape.iter().map(|&size| size as i64).collect(),
                data_type: kind as i32,
                name: name.to_owned(),
                external_data: vec![
                    entry("location", at.file.clone()),
                    entry("offset", at.offset_bytes.to_string()),
                    entry("length", at.length_bytes.to_string()),
                ],
                data_location: 1,
                ..Tensor::default()
            });
        }
        name.to_owned()
    }

    /// Declares an input.
    pub fn input(&mut self, name: &str, kind: DataType, shape: &[Dim]) -> Value {
        self.graph.input.push(value_info(name, kind, shape));
        name.to_owned()
    }

    /// Declares that the value `name` is an output.
    pub fn output(&mut self, name: &str, kind: DataType, shape: &[Dim]) {
        self.graph.output.push(value_info(name, kind, shape));
    }

    /// The finished model.
    pub fn finish(mut self, name: &str, opset: i64, ir_version: i64) -> Model {
        name.clone_into(&mut self.graph.name);
        let mut opset_import = vec![OperatorSet { domain: String::new(), version: opset }];
        if self.graph.node.iter().any(|node| node.domain == TENSORRT) {
            opset_import.push(OperatorSet { domain: TENSORRT.to_owned(), version: 1 });
        }
        Model { ir_version, producer_name: "sage".to_owned(), graph: Some(self.graph), opset_import }
    }
}

fn value_info(name: &str, kind: DataType, shape: &[Dim]) -> ValueInfo {
    let dim = shape
        .iter()
        .map(|dim| Dimension {
            size: Some(match dim {
                Dim::Fixed(size) => Size::Fixed(*size as i64),
                Dim::Named(name) => Size::Named((*name).to_owned()),
            }),
        })
        .collect();
    let tensor = TensorType { element: kind as i32, shape: Some(Shape { dim }) };
    ValueInfo { name: name.to_owned(), kind: Some(Type { tensor: Some(tensor) }) }
}
