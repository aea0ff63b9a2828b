//! A language model on the terminal: what `sage ask`, `sage chat` and `sage bench llm` share. A folder and options flow in;
//! answers flow out, piece by piece and with the times they took.

use super::BadInput;
use super::engine_build::not_a_checkpoint;
use crate::block::reason::prompt::{SYSTEM, Scene, prompt};
use crate::engine::CancelToken;
use crate::engine::cpu::qwen2::{Decoder, DecoderOptions, Finish, Generation, Mode, Step};
use crate::model::chat::{Message, Role, own_system, render_for};
use crate::model::constraint::Constraint;
use crate::model::qwen2::Qwen2Weights;
use crate::model::sampling::{Sampler, Sampling};
use crate::model::tokenizer::{TextStream, Tokenizer};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Options that all commands with a language model have.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Model folder in Hugging Face layout (Qwen2 or Qwen2.5); default: the mind that ships.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Threads; default: as many as the machine has cores.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// System message; default: the one of the model's own chat template.
    #[arg(long, value_name = "S")]
    pub system: Option<String>,
    /// Take the most likely token each time, whatever generation_config.json says.
    #[arg(long)]
    pub greedy: bool,
    /// Where the random draws begin; the same seed gives the same answer.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Most tokens in an answer.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_new_tokens: usize,
    /// exact: activations in f32. fast: rounded to bf16 where the processor can multiply that.
    #[arg(long, value_name = "MODE", default_value = "exact", value_parser = mode)]
    pub mode: Mode,
}

/// Reads the name of a mode.
///
/// # Errors
/// It is neither `exact` nor `fast`.
pub fn mode(name: &str) -> Result<Mode, String> {
    Mode::named(name).ok_or_else(|| "say exact or fast".to_owned())
}

impl ModelArgs {
    /// Threads to use.
    pub fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(cores).clamp(1, 256)
    }
}

/// A model's files, checked and mapped, before working memory is allocated.
pub struct ModelFiles {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How it wants its tokens drawn, `--greedy` applied.
    pub sampling: Sampling,
    /// Its weights.
    pub weights: Arc<Qwen2Weights>,
    system: Option<String>,
    /// The mind that ships knows single turns about a scene only.
    pub single_turns: bool,
    /// When loading began.
    began: Instant,
}

impl ModelFiles {
    /// Opens the folder that the arguments name.
    ///
    /// # Errors
    /// One sentence about the file that is missing or does not fit.
    pub fn open(args: &ModelArgs) -> anyhow::Result<ModelFiles> {
        let began = Instant::now();
        let shipped = args.model.is_none();
        let folder = crate::assets::engine_dir(args.model.as_deref().unwrap_or(Path::new("")), "mind");
        let bad = |error: crate::model::ModelError| BadInput(error.to_string());
        if !folder.is_dir() {
            let text = format!("{} is not a folder; give one in Hugging Face layout", folder.display());
            return Err(BadInput(text).into());
        }
        if let Some(why) = not_a_checkpoint(&folder) {
            return Err(BadInput(why).into());
        }
        let weights = Arc::new(Qwen2Weights::open(&folder).map_err(bad)?);
        let tokenizer = Tokenizer::load(&folder).map_err(bad)?;
        let sampling = Sampling::load(&folder).map_err(bad)?;
        let own = if shipped { Some(SYSTEM) } else { own_system(&folder).map_err(bad)? };
        Ok(ModelFiles {
            tokenizer,
            sampling: if args.greedy { sampling.without_chance() } else { sampling },
            weights,
            system: args.system.clone().or(own.map(str::to_owned)),
            single_turns: shipped,
            began,
        })
    }

    /// Tokens of the prompt of a conversation's first turn. The mind that ships is told of an empty scene, unless the
    /// words begin with one.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn first_turn(&self, said: &str) -> anyhow::Result<Vec<u32>> {
        let worded;
        let said = if self.single_turns && !said.starts_with("scene: ") {
            worded = prompt(&Scene::default(), [said]);
            worded.as_str()
        } else {
            said
        };
        let asked = [Message::new(Role::User, said)];
        Ok(self.tokenizer.encode(&render_for(self.system.as_deref(), &asked, &[]))?)
    }

    /// Allocates working memory for `context` tokens (or as many as the model was made for, if fewer).
    ///
    /// # Errors
    /// There is not so much memory, or the operating system refuses a thread.
    pub fn start(self, (threads, mode): (usize, Mode), context: usize) -> anyhow::Result<Speaker> {
        let context = context.min(self.weights.config.max_positions);
        let cache = context.saturating_mul(self.weights.config.kv_bytes_per_token());
        if Vec::<u8>::new().try_reserve_exact(cache).is_err() {
            let gigabytes = cache as f64 / 1e9;
            let text = format!(
                "keys and values of {context} tokens take {gigabytes:.1} GB, more than this machine gives; ask for fewer tokens"
            );
            return Err(BadInput(text).into());
        }
        let options = DecoderOptions { threads, context, mode, ..DecoderOptions::default() };
        let decoder = Decoder::new(Arc::clone(&self.weights), options)?;
        let sampler = Sampler::new(self.sampling.clone(), self.tokenizer.vocabulary(), 0);
        let generation = Generation::new(&decoder, sampler);
        Ok(Speaker { load: self.began.elapsed(), files: self, decoder, generation })
    }
}

/// A model that can be asked.
pub struct Speaker {
    /// Its files.
    pub files: ModelFiles,
    /// Its forward pass.
    pub decoder: Decoder,
    /// The conversation.
    pub generation: Generation,
    /// From opening the folder to ready.
    pub load: Duration,
}

/// One answer and its times.
pub struct Answer {
    /// What was said.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How it ended; `None` if it was interrupted.
    pub finish: Option<Finish>,
    /// From the start to the first token.
    pub prefill: Duration,
    /// Each later step.
    pub decode: Vec<Duration>,
}

impl Speaker {
    /// Answers `prompt`; each piece of text is passed on as it comes. `cancel` interrupts; with a constraint only what it
    /// allows is said.
    ///
    /// # Errors
    /// The prompt does not fit, the model is broken, or a piece could not be passed on.
    pub fn answer(
        &mut self,
        prompt: &[u32],
        (most_new, seed): (usize, u64),
        (cancel, mut constraint): (&CancelToken, Option<&mut Constraint>),
        mut each: impl FnMut(&str) -> io::Result<()>,
    ) -> anyhow::Result<Answer> {
        let began = Instant::now();
        self.generation.start(prompt, most_new, seed).map_err(|error| BadInput(error.to_string()))?;
        let (mut stream, mut text) = (TextStream::default(), String::new());
        let (mut prefill, mut decode, mut passed) = (None, Vec::new(), 0);
        let finish = loop {
            let step = Instant::now();
            let allowed = constraint.as_deref().map(Constraint::allowed);
            let stepped = self.generation.step_allowing(&mut self.decoder, cancel, allowed);
            let Ok(done) = stepped else { break None };
            let mut complete = false;
            match done {
                Step::Read { .. } => continue,
                Step::Token(token) => {
                    stream.push(self.files.tokenizer.bytes_of(token), &mut text);
                    if let Some(constraint) = &mut constraint {
                        // A schema may turn out too large only on the way.
                        complete = constraint.accept(token).map_err(|error| BadInput(error.to_string()))?;
                    }
                }
                Step::Finished(_) => stream.finish(&mut text),
            }
            match prefill {
                None => prefill = Some(began.elapsed()),
                // The end is a decode step only if the model sampled it; the other ends cost nothing.
                Some(_) if !matches!(done, Step::Finished(Finish::Length)) => decode.push(step.elapsed()),
                Some(_) => {}
            }
            each(&text[passed..])?;
            passed = text.len();
            match done {
                Step::Finished(Finish::Broken) => {
                    let reason =
                        "the model's logits are no numbers, so its weights are broken; download or make it again";
                    return Err(BadInput(reason.to_owned()).into());
                }
                Step::Finished(finish) => break Some(finish),
                _ if complete => break Some(Finish::Stop),
                _ => {}
            }
        };
        Ok(Answer {
            text,
            tokens: self.generation.answer().to_vec(),
            prompt_tokens: prompt.len(),
            finish,
            prefill: prefill.unwrap_or_else(|| began.elapsed()),
            decode,
        })
    }
}

/// The value below which `share` of the durations lie, in ms; 0 for none.
pub fn quantile_ms(durations: &[Duration], share: f64) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).map_or(0.0, |duration| milliseconds(*duration))
}

/// Milliseconds, rounded to a thousandth.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Bytes of this process that lie in memory now, mapped weights included; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    status_bytes("VmRSS:")
}

/// Bytes of this process that no file holds; 0 where the system does not tell.
pub fn anonymous_bytes() -> u64 {
    status_bytes("RssAnon:")
}

fn status_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let durations: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!((quantile_ms(&durations, 0.5), quantile_ms(&durations, 0.99)), (50.0, 99.0));
        assert_eq!(quantile_ms(&durations[..1], 0.99), 100.0);
        assert_eq!(quantile_ms(&[], 0.5), 0.0);
    }
}
