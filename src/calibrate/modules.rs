//! The linear layers of a network by name, and what a recipe makes of each. Weights and a recipe flow in; a plan flows out.

use super::CalibrateError;
use super::recipe::{Recipe, Stored};
use crate::engine::cpu::qwen2::Site;
use crate::model::lowbit::{Format, NVFP4_BLOCK, Scheme};
use crate::model::qwen2::{Matrix, Qwen2Weights};

/// One linear layer.
pub struct Module<'a> {
    /// Full name, as in the checkpoint without `.weight`.
    pub name: String,
    /// Its weights.
    pub matrix: &'a Matrix,
    /// Where its inputs are seen.
    pub site: (usize, Site),
    /// What becomes of it; `None`: it stays as it is.
    pub scheme: Option<Scheme>,
    /// Weights of a row that share a scale.
    pub block: usize,
}

/// All linear layers in the order of the network, the head last.
///
/// # Errors
/// A layer that the recipe's format does not fit, by name.
pub fn plan<'a>(weights: &'a Qwen2Weights, recipe: &Recipe) -> Result<Vec<Module<'a>>, CalibrateError> {
    let mut modules = Vec::new();
    let mut add = |name: String, matrix: &'a Matrix, site: (usize, Site), stored: Stored| {
        let scheme = recipe.scheme(&name, stored);
        let block = block(scheme, matrix, recipe.weights.group)
            .map_err(|why| CalibrateError::Refused(format!("`{name}` {why}; exclude it in the recipe")))?;
        modules.push(Module { name, matrix, site, scheme, block });
        Ok::<(), CalibrateError>(())
    };
    for (index, layer) in weights.layers.iter().enumerate() {
        let (attention, feed) = (recipe.formats.attention, recipe.formats.feed_forward);
        for (part, matrix, site, stored) in [
            ("self_attn.q_proj", &layer.query, Site::Attention, attention),
            ("self_attn.k_proj", &layer.key, Site::Attention, attention),
            ("self_attn.v_proj", &layer.value, Site::Attention, attention),
            ("self_attn.o_proj", &layer.output, Site::Output, attention),
            ("mlp.gate_proj", &layer.gate, Site::Feed, feed),
            ("mlp.up_proj", &layer.up, Site::Feed, feed),
            ("mlp.down_proj", &layer.down, Site::Down, feed),
        ] {
            add(format!("model.layers.{index}.{part}"), matrix, (index, site), stored)?;
        }
    }
    add("lm_head".to_owned(), &weights.head, (weights.layers.len(), Site::Head), recipe.formats.head)?;
    Ok(modules)
}

/// Weights that share a scale: for INT4 the recipe's group, halved until rows are whole groups.
fn block(scheme: Option<Scheme>, matrix: &Matrix, group: usize) -> Result<usize, String> {
    let columns = matrix.columns;
    match scheme.map(|scheme| scheme.format) {
        None | Some(Format::Int8 | Format::Fp8) => Ok(columns),
        Some(Format::Nvfp4) if columns.is_multiple_of(NVFP4_BLOCK) => Ok(NVFP4_BLOCK),
        Some(Format::Nvfp4) => Err(format!("has {columns} inputs, which are no whole blocks of {NVFP4_BLOCK}")),
        Some(Format::Int4) if !matrix.rows.is_multiple_of(2) => {
            Err(format!("has {} outputs; INT4 stores them in pairs", matrix.rows))
        }
        Some(Format::Int4) => {
            let halves = std::iter::successors(Some(group), |group| Some(group / 2)).take_while(|group| *group >= 16);
            let fits = halves.into_iter().find(|group| columns.is_multiple_of(*group));
            fits.ok_or_else(|| format!("has {columns} inputs, which are no whole groups of 16 or more"))
        }
    }
}
