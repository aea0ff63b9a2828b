//! Memory that an engine works in, computed from the shapes of its graph before anything is loaded. A manifest flows in; bytes flow
//! out. TensorRT says its own figure only when it loads a plan on its GPU; what kernels want beside the values of the graph is
//! not in here.

use super::manifest::Manifest;
use super::run::layout::Block;
use crate::model::onnx::Form;

/// Working memory that all conversations share: every intermediate value of one layer at once, in a pass of the largest chunk over
/// the whole cache, and those behind the last layer; for quantised weights also one matrix in plain numbers. Layers run one after
/// another in the same memory, and within one most values are not needed at the same time.
pub fn shared_bytes(manifest: &Manifest) -> u64 {
    let (network, graph) = (&manifest.network, &manifest.recipe.graph);
    let (tokens, keys) = (manifest.recipe.chunk, graph.capacity);
    let (number, wide) = (graph.precision.bytes(), size_of::<f32>());
    let (queries, rows) = (network.heads * network.head_dim, network.kv_heads * network.head_dim);
    // In and out of the layer, behind both norms, both sums and both deltas; squares of the norm in f32.
    let stream = tokens * network.hidden * (8 * number + 2 * wide);
    // Flat, by head, rotated; what was attended to, by head and flat.
    let projected = tokens * (3 * (queries + 2 * rows) + 2 * queries) * number;
    let feed_forward = 5 * tokens * network.intermediate * number;
    let mask = tokens * keys * number;
    // The live part of the cache; the small operators also write into a copy and turn it round.
    let (copies, scores) = match graph.form {
        Form::Fused => (2, 0),
        // Scores, masked ones and their softmax, which is in f32 inside.
        Form::Primitive => (6, network.heads * tokens * keys * (2 * number + wide)),
    };
    let attention = mask + scores + copies * keys * rows * number;
    let plain = graph.weights.map_or(0, |_| network.hidden * network.intermediate.max(queries) * number);
    let behind = network.vocabulary * (number + wide) + 2 * network.hidden * number;
    (stream + projected + feed_forward + attention + plain + behind) as u64
}

/// What one conversation holds beside its KV cache: inputs, the residual stream between groups, new rows, logits on both sides.
pub fn conversation_bytes(manifest: &Manifest) -> u64 {
    let (network, graph) = (&manifest.network, &manifest.recipe.graph);
    let (tokens, number) = (manifest.recipe.chunk, graph.precision.bytes());
    let fresh = match graph.form {
        Form::Fused => 0,
        Form::Primitive => 2 * network.layers * network.kv_heads * network.head_dim,
    };
    let logits = 2 * size_of::<f32>() * network.vocabulary;
    (2 * Block::new(tokens).bytes + tokens * (2 * network.hidden + fresh) * number + logits) as u64
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Network, Recipe};
    use super::*;
    use crate::model::lowbit::Format;
    use crate::model::onnx::{Options, Precision};

    /// Qwen2.5-14B, 4,096 positions.
    fn fourteen_b(form: Form, weights: Option<Format>, chunk: usize) -> Manifest {
        let graph = Options { form, precision: Precision::Bf16, weights, capacity: 4_096, groups: 4 };
        Manifest {
            network: Network {
                layers: 48,
                hidden: 5_120,
                heads: 40,
                kv_heads: 8,
                head_dim: 128,
                intermediate: 13_824,
                vocabulary: 152_064,
            },
            ..Manifest::empty(Recipe { graph, chunk, target: "thor".to_owned() })
        }
    }

    #[test]
    fn working_memory_of_14b_is_some_tens_of_megabytes_and_the_small_operators_want_the_scores_too() {
        let fused = shared_bytes(&fourteen_b(Form::Fused, None, 128));
        assert!((50_000_000..100_000_000).contains(&fused), "{fused}");
        let primitive = shared_bytes(&fourteen_b(Form::Primitive, None, 128));
        // 40 heads, 128 tokens, 4,096 keys in 8 bytes, and 4 more copies of the cache of a layer.
        assert_eq!(primitive - fused, 40 * 128 * 4_096 * 8 + 4 * 4_096 * 1_024 * 2);
        let four_bits = shared_bytes(&fourteen_b(Form::Fused, Some(Format::Int4), 128));
        assert_eq!(four_bits - fused, 5_120 * 13_824 * 2);
        assert!(shared_bytes(&fourteen_b(Form::Fused, None, 256)) > fused);
        // Two blocks of a chunk's rows between groups and two of logits.
        let one = conversation_bytes(&fourteen_b(Form::Fused, None, 128));
        assert!((2 * 128 * 5_120 * 2 + 8 * 152_064..4_000_000).contains(&(one as usize)), "{one}");
        let rows = conversation_bytes(&fourteen_b(Form::Primitive, None, 128)) - one;
        assert_eq!(rows, 2 * 48 * 8 * 128 * 128 * 2);
    }
}
