//! The embedded decoder against `transformers` in float32, and its promises about chunks, threads, cancelling and
//! cutting back. References: tests/reference/qwen2.py.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use checkpoint::{Case, cases};
use sage::engine::CancelToken;
use sage::engine::cpu::kernels::Kernels;
use sage::engine::cpu::qwen2::{Cancelled, Decoder, DecoderOptions, Finish, Generation, Mode, Step};
use sage::model::qwen2::Qwen2Weights;
use sage::model::sampling::{Sampler, Sampling};
use std::sync::Arc;

fn load(case: &Case, shards: usize) -> Arc<Qwen2Weights> {
    let directory = tempfile::tempdir().unwrap();
    case.write(directory.path(), shards);
    // The mapping outlives the directory entry.
    Arc::new(Qwen2Weights::open(directory.path()).unwrap())
}

fn decoder(weights: &Arc<Qwen2Weights>, threads: usize, chunk: usize, kernels: &'static Kernels) -> Decoder {
    let options = DecoderOptions { threads, context: 1600, chunk, kernels, mode: Mode::Exact };
    Decoder::new(Arc::clone(weights), options).unwrap()
}

fn greedy(decoder: &Decoder) -> Generation {
    let vocabulary = decoder.weights().config.vocab_size;
    Generation::new(decoder, Sampler::new(Sampling::default(), vocabulary, 0))
}

/// Logits after `tokens`, read in chunks of the decoder's size.
fn logits(decoder: &mut Decoder, tokens: &[u32]) -> Vec<f32> {
    let (mut kv, go) = (decoder.new_cache(), CancelToken::default());
    let chunk = decoder.options().chunk;
    for part in tokens.chunks(chunk) {
        decoder.forward(part, &mut kv, &go).unwrap();
    }
    decoder.logits((tokens.len() - 1) % chunk, &go).unwrap().to_vec()
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32
}

/// Largest difference at the positions the reference sampled.
fn error(logits: &[f32], sampled: &[f32]) -> f32 {
    let at = |i: usize| logits[i * logits.len() / sampled.len()];
    sampled.iter().enumerate().map(|(i, want)| (at(i) - want).abs()).fold(0.0, f32::max)
}

/// Steps, mismatches excused by a margin below 1e-4, largest logit error.
fn compare(case: &Case, weights: &Arc<Qwen2Weights>, kernels: &'static Kernels) -> (usize, usize, f32) {
    let mut decoder = decoder(weights, 1, 64, kernels);
    let (mut kv, go) = (decoder.new_cache(), CancelToken::default());
    let prompt = case.prompt();
    let (tokens, margins) = (case.tokens(), case.floats("margins"));
    for part in prompt.chunks(64) {
        decoder.forward(part, &mut kv, &go).unwrap();
    }
    let mut index = (prompt.len() - 1) % 64;
    let (mut excused, mut worst) = (0, 0.0f32);
    for (step, (&token, &margin)) in tokens.iter().zip(&margins).enumerate() {
        let logits = decoder.logits(index, &go).unwrap();
        if argmax(logits) != token {
            assert!(
                margin < 1e-4,
                "case {} step {step}: {} instead of {token}, margin {margin}",
                case.index,
                argmax(logits)
            );
            excused += 1;
        }
        if step == 0 {
            worst = worst.max(error(logits, &case.floats("first")));
        }
        if step + 1 == tokens.len() {
            worst = worst.max(error(logits, &case.floats("last")));
        }
        decoder.forward(&[token], &mut kv, &go).unwrap();
        index = 0;
    }
    (tokens.len(), excused, worst)
}

#[test]
fn greedy_tokens_and_logits_equal_transformers_in_float32() {
    for kernels in Kernels::available() {
        let (mut steps, mut excused, mut worst) = (0, 0, 0.0f32);
        for case in cases() {
            if kernels.name == "scalar" && case.size("prompt") > 300 {
                continue; // the reference loops are slow; the others cover the long prompts
            }
            let weights = load(&case, 1 + case.index % 3);
            let (case_steps, case_excused, case_worst) = compare(&case, &weights, kernels);
            (steps, excused, worst) = (steps + case_steps, excused + case_excused, worst.max(case_worst));
        }
        println!(
            "{}: {steps} tokens, {excused} differ at margins below 1e-4, largest logit error {worst:.1e}",
            kernels.name
        );
        assert!(worst <= 1e-4, "{}: logit error {worst}", kernels.name);
        assert!(excused * 100 <= steps, "{}: {excused} of {steps} tokens differ", kernels.name);
    }
}

#[test]
fn logits_have_the_same_bits_for_any_chunks_and_threads() {
    for case in cases().into_iter().filter(|case| (100..300).contains(&case.size("prompt"))) {
        let weights = load(&case, 1);
        let prompt = case.prompt();
        let want = logits(&mut decoder(&weights, 1, 64, Kernels::best()), &prompt);
        for (threads, chunk) in [(1, 1), (1, 2), (2, 3), (2, 7), (1, 33), (2, 64), (3, 300), (1, 300)] {
            let got = logits(&mut decoder(&weights, threads, chunk, Kernels::best()), &prompt);
            assert!(got == want, "case {}: {threads} threads, chunks of {chunk}", case.index);
        }
    }
}

/// All tokens of an answer of `count`.
fn answer(decoder: &mut Decoder, generation: &mut Generation, prompt: &[u32], count: usize) -> Vec<u32> {
    generation.start(prompt, count, 0).unwrap();
    finish(decoder, generation)
}

fn finish(decoder: &mut Decoder, generation: &mut Generation) -> Vec<u32> {
    let go = CancelToken::default();
    while !matches!(generation.step(decoder, &go).unwrap(), Step::Finished(_)) {}
    generation.answer().to_vec()
}

#[test]
fn cutting_back_forking_and_continuing_give_the_same_tokens() {
    let case = &cases()[8];
    let mut decoder = decoder(&load(case, 1), 2, 32, Kernels::best());
    let prompt = case.prompt();
    let mut generation = greedy(&decoder);
    let whole = answer(&mut decoder, &mut generation, &prompt, 40);
    assert_eq!(whole, case.tokens()[..40]);
    assert_eq!(generation.finish(), Some(Finish::Length));

    // Cut back into the answer and go on.
    generation.truncate(prompt.len() + 11);
    generation.allow(29);
    assert_eq!(finish(&mut decoder, &mut generation), whole);

    // A fork goes its own way and the original is not disturbed.
    generation.truncate(prompt.len() + 20);
    let mut fork = generation.fork(&decoder);
    fork.append(&[1, 2, 3]);
    fork.allow(5);
    assert_ne!(finish(&mut decoder, &mut fork)[20..25], whole[20..25]);
    generation.allow(20);
    assert_eq!(finish(&mut decoder, &mut generation), whole);

    // Cutting into the prompt and asking again reads only what is new.
    let mut other = prompt[..200].to_vec();
    other.extend([5, 6, 7]);
    let mut afresh = greedy(&decoder);
    let fresh = answer(&mut decoder, &mut afresh, &other, 10);
    generation.start(&other, 10, 0).unwrap();
    assert_eq!(generation.kv().len(), 200);
    assert_eq!(finish(&mut decoder, &mut generation), fresh);
}

#[test]
fn a_prefix_borrowed_from_another_conversation_changes_nothing() {
    let case = &cases()[9];
    let mut decoder = decoder(&load(case, 1), 1, 64, Kernels::best());
    let prompt = case.prompt();
    let mut first = greedy(&decoder);
    let whole = answer(&mut decoder, &mut first, &prompt, 20);
    let mut second = greedy(&decoder);
    let shared = second.borrow_prefix(first.tokens(), first.kv(), &prompt);
    assert_eq!(shared, prompt.len());
    assert_eq!(answer(&mut decoder, &mut second, &prompt, 20), whole);
}

#[test]
fn a_cancelled_step_leaves_everything_as_it_was() {
    let case = &cases()[6];
    let mut decoder = decoder(&load(case, 1), 2, 16, Kernels::best());
    let prompt = case.prompt();
    let mut generation = greedy(&decoder);
    generation.start(&prompt, 30, 0).unwrap();
    let cancel = CancelToken::default();
    loop {
        let before = (generation.tokens().len(), generation.kv().len());
        cancel.cancel();
        let stopped = generation.step(&mut decoder, &cancel);
        if generation.finish().is_some() {
            break;
        }
        if generation.answer().len() < 30 {
            assert_eq!(stopped, Err(Cancelled));
            assert_eq!((generation.tokens().len(), generation.kv().len()), before);
        }
        cancel.reset();
        generation.step(&mut decoder, &cancel).unwrap();
    }
    assert_eq!(generation.answer(), &case.tokens()[..30]);
}

#[test]
fn the_context_is_a_limit_and_not_a_crash() {
    let case = &cases()[0];
    let weights = load(case, 1);
    let options = DecoderOptions { threads: 1, context: 40, chunk: 16, ..DecoderOptions::default() };
    let mut decoder = Decoder::new(weights, options).unwrap();
    let mut generation = greedy(&decoder);
    let answer = answer(&mut decoder, &mut generation, &case.prompt(), 1000);
    assert_eq!((answer.len(), generation.finish()), (39, Some(Finish::Context)));
    assert!(generation.start(&[0; 41], 1, 0).unwrap_err().to_string().contains("41 tokens"));
    assert!(generation.start(&[300], 1, 0).unwrap_err().to_string().contains("300"));
    assert!(generation.start(&[], 1, 0).is_err());
}

#[test]
fn broken_checkpoints_are_refused_in_one_sentence() {
    let case = &cases()[1];
    let refuse = |spoil: &dyn Fn(&std::path::Path)| {
        let directory = tempfile::tempdir().unwrap();
        case.write(directory.path(), 1);
        spoil(directory.path());
        Qwen2Weights::open(directory.path()).err().expect("must be refused").to_string()
    };
    let weights = |directory: &std::path::Path| directory.join("model.safetensors");
    let short = refuse(&|directory| {
        let bytes = std::fs::read(weights(directory)).unwrap();
        std::fs::write(weights(directory), &bytes[..bytes.len() - 100]).unwrap();
    });
    assert!(short.contains("cut short"), "{short}");
    let misshapen = refuse(&|directory| {
        let mut config = case.config();
        config["intermediate_size"] = 77.into();
        std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    });
    assert!(misshapen.contains("mlp.gate_proj.weight") && misshapen.contains("more"), "{misshapen}");
    let missing = refuse(&|directory| {
        let mut config = case.config();
        config["num_hidden_layers"] = 4.into();
        std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    });
    assert!(missing.contains("`model.layers.3.input_layernorm.weight` is missing"), "{missing}");
    let absent = refuse(&|directory| std::fs::remove_file(weights(directory)).unwrap());
    assert!(absent.contains("model.safetensors.index.json"), "{absent}");
}

/// What is said of the case once `change` was at its folder; nothing if it opens.
fn refused(case: &Case, shards: usize, change: &dyn Fn(&std::path::Path)) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    case.write(directory.path(), shards);
    change(directory.path());
    Qwen2Weights::open(directory.path()).err().map(|error| error.to_string())
}

/// Changes the tensors of a safetensors file: names with type, shape and bytes.
fn rewrite(path: &std::path::Path, change: impl FnOnce(&mut Vec<Stored>)) {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let stored = |(name, view): (&str, safetensors::tensor::TensorView)| Stored {
        name: name.to_owned(),
        dtype: serde_json::to_value(view.dtype()).unwrap(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    let mut tensors: Vec<Stored> = file.iter().map(stored).collect();
    change(&mut tensors);
    let parts = tensors.iter().map(|t| (t.name.as_str(), t.dtype.clone(), &t.shape[..], t.bytes.clone()));
    checkpoint::write_file(path, parts);
}

#[derive(Clone)]
struct Stored {
    name: String,
    dtype: serde_json::Value,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

#[test]
fn whole_numbers_that_are_not_ours_are_called_that() {
    let case = &cases()[0];
    for (name, shape) in [("model.layers.1.mlp.up_proj.weight", vec![128, 64]), ("model.norm.weight", vec![64])] {
        let says = refused(case, 1, &|folder| {
            rewrite(&folder.join("model.safetensors"), |tensors| {
                let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
                tensor.dtype = "I8".into();
                tensor.bytes.truncate(shape.iter().product());
                assert_eq!(tensor.shape, shape);
            });
        });
        let says = says.unwrap();
        assert!(says.contains(name) && says.contains("stored as I8"), "{says}");
    }
}

#[test]
fn the_index_says_which_of_two_tensors_of_a_name_is_meant_and_names_no_folders() {
    let case = &cases()[0];
    let directory = tempfile::tempdir().unwrap();
    case.write(directory.path(), 2);
    let prompt = case.prompt();
    let want = logits(&mut decoder(&load(case, 1), 1, 64, Kernels::best()), &prompt);
    let mut first = None;
    let file = |number: usize| directory.path().join(format!("model-0000{number}-of-00002.safetensors"));
    rewrite(&file(1), |tensors| first = tensors.iter().find(|t| t.name == "model.embed_tokens.weight").cloned());
    rewrite(&file(2), |tensors| {
        let mut other = first.unwrap();
        other.bytes.fill(0);
        tensors.push(other);
    });
    let weights = Arc::new(Qwen2Weights::open(directory.path()).unwrap());
    assert!(logits(&mut decoder(&weights, 1, 64, Kernels::best()), &prompt) == want);

    for place in ["../other/model.safetensors", "..", "", "/etc/passwd"] {
        let says = refused(case, 2, &|folder| {
            let path = folder.join("model.safetensors.index.json");
            let mut index: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            index["weight_map"]["model.norm.weight"] = place.into();
            std::fs::write(&path, index.to_string()).unwrap();
        });
        let says = says.unwrap();
        assert!(says.contains("`model.norm.weight` is not mapped to a plain file name"), "{place:?}: {says}");
    }
}

#[test]
fn a_head_that_differs_from_the_embedding_is_used_even_where_the_configuration_ties_them() {
    // As transformers 5 does.
    let case = &cases()[4];
    assert_eq!(case.json["tied"], false);
    let prompt = case.prompt();
    let logits_of = |equal: bool, tied: bool| {
        let directory = tempfile::tempdir().unwrap();
        case.write(directory.path(), 1);
        let mut config = case.config();
        config["tie_word_embeddings"] = tied.into();
        std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        if equal {
            rewrite(&directory.path().join("model.safetensors"), |tensors| {
                let embedding = tensors.iter().find(|t| t.name == "model.embed_tokens.weight").unwrap().bytes.clone();
                tensors.iter_mut().find(|t| t.name == "lm_head.weight").unwrap().bytes = embedding;
            });
        }
        let weights = Arc::new(Qwen2Weights::open(directory.path()).unwrap());
        logits(&mut decoder(&weights, 1, 64, Kernels::best()), &prompt)
    };
    let own = logits_of(false, false);
    assert!(logits_of(false, true) == own);
    assert!(logits_of(true, true) == logits_of(true, false));
    assert!(logits_of(true, true) != own);
}
