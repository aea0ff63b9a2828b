//! What the inputs and outputs of an engine mean, and how inputs lie in memory. Names flow in; roles and offsets flow out. The
//! names are those that `model::onnx::qwen2` gives.

/// Alignment that TensorRT asks of every tensor, bytes.
pub const ALIGNMENT: usize = 256;

/// What a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Token ids, `[1, S]`.
    Ids,
    /// The residual stream of the group before, `[S, hidden]`.
    Hidden,
    /// Positions of the new tokens, `[1, S]`.
    Positions,
    /// 0 .. T-1, `[T]`.
    Keys,
    /// Position of the first new token, `[1]`.
    WriteIndex,
    /// Row whose logits are wanted, `[1]`.
    Last,
    /// Keys or values of a layer, `[1, kv heads, capacity, head]`.
    Cache(Half, usize),
    /// The same memory, updated.
    Updated(Half, usize),
    /// New rows that the caller writes into the cache, `[1, kv heads, S, head]`.
    Fresh(Half, usize),
    /// The residual stream for the next group.
    HiddenOut,
    /// `[1, vocabulary]`, f32.
    Logits,
    /// The most likely token, `[1]`.
    NextToken,
}

/// Half of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// The role of the tensor of that name, if it has one.
pub fn role(name: &str) -> Option<Role> {
    match name {
        "input_ids" => return Some(Role::Ids),
        "hidden" => return Some(Role::Hidden),
        "position_ids" => return Some(Role::Positions),
        "key_positions" => return Some(Role::Keys),
        "write_index" => return Some(Role::WriteIndex),
        "last" => return Some(Role::Last),
        "hidden_out" => return Some(Role::HiddenOut),
        "logits" => return Some(Role::Logits),
        "next_token" => return Some(Role::NextToken),
        _ => {}
    }
    let (half, rest) = match name.split_once('_')? {
        ("k", rest) => (Half::Keys, rest),
        ("v", rest) => (Half::Values, rest),
        _ => return None,
    };
    let (what, layer) = rest.split_once('_')?;
    let layer = layer.parse().ok()?;
    match what {
        "cache" => Some(Role::Cache(half, layer)),
        "out" => Some(Role::Updated(half, layer)),
        "new" => Some(Role::Fresh(half, layer)),
        _ => None,
    }
}

/// Sizes of a dynamic input for `tokens` new tokens and `keys` positions looked at; `None` if its sizes are fixed.
pub fn sizes(role: Role, tokens: usize, keys: usize, hidden: usize) -> Option<Vec<i64>> {
    match role {
        Role::Ids | Role::Positions => Some(vec![1, tokens as i64]),
        Role::Hidden => Some(vec![tokens as i64, hidden as i64]),
        Role::Keys => Some(vec![keys as i64]),
        _ => None,
    }
}

/// Where the small inputs of a pass lie in one block that is uploaded at once; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Position of the first new token.
    pub write_index: usize,
    /// Row whose logits are wanted.
    pub last: usize,
    /// Positions.
    pub positions: usize,
    /// Token ids.
    pub ids: usize,
    /// All of it.
    pub bytes: usize,
}

impl Block {
    /// A block for at most `chunk` tokens of 8 bytes.
    pub fn new(chunk: usize) -> Block {
        let list = (8 * chunk).next_multiple_of(ALIGNMENT);
        let positions = 2 * ALIGNMENT;
        Block { write_index: 0, last: ALIGNMENT, positions, ids: positions + list, bytes: positions + 2 * list }
    }

    /// The byte at which an input of the block lies.
    pub fn place(&self, role: Role) -> Option<usize> {
        match role {
            Role::WriteIndex => Some(self.write_index),
            Role::Last => Some(self.last),
            Role::Positions => Some(self.positions),
            Role::Ids => Some(self.ids),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_graph_has_a_role_and_others_have_none() {
        assert_eq!(role("k_cache_0"), Some(Role::Cache(Half::Keys, 0)));
        assert_eq!(role("v_out_47"), Some(Role::Updated(Half::Values, 47)));
        assert_eq!(role("v_new_3"), Some(Role::Fresh(Half::Values, 3)));
        assert_eq!(role("input_ids"), Some(Role::Ids));
        for name in ["k_cache_", "k_cache_x", "w_cache_1", "inputs_embeds", "", "k"] {
            assert_eq!(role(name), None, "{name}");
        }
    }

    #[test]
    fn inputs_lie_apart_and_aligned() {
        for chunk in [1, 31, 32, 33, 1024] {
            let block = Block::new(chunk);
            let starts = [block.write_index, block.last, block.positions, block.ids, block.bytes];
            assert!(starts.iter().all(|start| start % ALIGNMENT == 0), "{block:?}");
            assert!(starts.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(block.ids - block.positions >= 8 * chunk && block.bytes - block.ids >= 8 * chunk);
        }
    }
}
