//! The whole chain on trained weights: `sage calibrate` on the mind that ships, the folder emitted by `sage engine build
//! --emit-only`, run by ONNX Runtime (NVFP4: by ONNX's reference evaluator with NVIDIA's operator in numpy), against the CPU path
//! and `sage ask` on the same folder. What the others computed is recorded by tests/reference/calibrated_onnx.py for exactly
//! these files: the reference of the calibration runs on scalar kernels, which give the same bytes everywhere.

#[path = "support/checkpoint.rs"]
mod checkpoint;
#[path = "support/divergence.rs"]
mod divergence;

use checkpoint::{hashed, start};
use divergence::divergence;
use sage::engine::CancelToken;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions};
use sage::model::chat::{Message, Role, render};
use sage::model::checkpoint::Checkpoint;
use sage::model::lowbit::{Declared, LowBit};
use sage::model::qwen2::Qwen2Weights;
use sage::model::sampling::Sampling;
use sage::model::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

const FORMATS: [&str; 4] = ["int4", "int8", "fp8", "nvfp4"];
const FORMS: [&str; 2] = ["fused", "primitive"];
const CAPACITY: usize = 256;
/// Questions, and most tokens of an answer.
const QUESTIONS: usize = 12;
const ANSWER: usize = 32;

fn mind() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/mind")
}

fn sage(args: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sage"));
    command.args(args);
    for (option, path) in paths {
        if !option.is_empty() {
            command.arg(option);
        }
        command.arg(path);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Calibrates the mind; fp32 beside the codes when emitted, as the CPU path computes and ONNX Runtime has kernels for.
fn calibrate(format: &str, out: &Path) {
    let args = ["calibrate", "--recipe", format, "--tokens", "512", "--kernels", "scalar", "--threads", "2"];
    sage(&args, &[("", &mind()), ("--out", out)]);
}

fn emit(format: &str, form: &str, model: &Path, out: &Path) {
    let capacity = CAPACITY.to_string();
    let args = ["engine", "build", "--emit-only", "--precision", format, "--compute", "fp32", "--form", form];
    let more = ["--target", "sm120", "--chunk", "64", "--capacity", &capacity];
    sage(&[&args[..], &more[..]].concat(), &[("", model), ("--out", out)]);
}

/// The calibrated minds in the order of [`FORMATS`], made once for all tests of this file.
fn calibrated(format: &str) -> PathBuf {
    static MINDS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = MINDS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for format in FORMATS {
            calibrate(format, &folder.path().join(format));
        }
        folder
    });
    folder.path().join(format)
}

/// Graph, what was rewritten for it, and weights.
fn crc_of(out: &Path) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for file in ["model.onnx", "rewritten.weights", "model.safetensors"] {
        if out.join(file).exists() {
            hasher.update(&std::fs::read(out.join(file)).unwrap());
        }
    }
    hasher.finalize()
}

fn reference() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/calibrated_onnx.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn ids(json: &Value) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Held-out questions: as text for `sage ask`, and as tokens.
fn questions() -> Vec<(String, Vec<u32>)> {
    let tokenizer = Tokenizer::load(&mind()).unwrap();
    let text = std::fs::read_to_string(mind().join("heldout.jsonl")).unwrap();
    let cases = text.lines().step_by(600 / QUESTIONS);
    cases
        .map(|line| {
            let case: Value = serde_json::from_str(line).unwrap();
            let content = |i: usize| case["messages"][i]["content"].as_str().unwrap();
            let messages = [Message::new(Role::System, content(0)), Message::new(Role::User, content(1))];
            (content(1).to_owned(), tokenizer.encode(&render(&messages, &[])).unwrap())
        })
        .collect()
}

struct Cpu {
    decoder: Decoder,
    end: Vec<u32>,
}

impl Cpu {
    fn open(model: &Path) -> Cpu {
        let weights = Arc::new(Qwen2Weights::open(model).unwrap());
        let options = DecoderOptions { context: CAPACITY, ..DecoderOptions::default() };
        Cpu { decoder: Decoder::new(weights, options).unwrap(), end: Sampling::load(model).unwrap().end_tokens }
    }

    /// The logits after each of `tokens`.
    fn logits(&mut self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let (go, mut kv) = (CancelToken::default(), self.decoder.new_cache());
        let mut rows = Vec::new();
        for part in tokens.chunks(self.decoder.options().chunk) {
            self.decoder.forward(part, &mut kv, &go).unwrap();
            rows.extend((0..part.len()).map(|index| self.decoder.logits(index, &go).unwrap().to_vec()));
        }
        rows
    }

    /// The question and its greedy answer, without the token that ends it.
    fn conversation(&mut self, question: &[u32]) -> Vec<u32> {
        let mut tokens = question.to_vec();
        for _ in 0..ANSWER {
            let next = best(self.logits(&tokens).last().unwrap());
            if self.end.contains(&next) {
                break;
            }
            tokens.push(next);
        }
        tokens
    }
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32
}

/// Step one of making the references; step two is tests/reference/calibrated_onnx.py.
#[test]
#[ignore = "writes target/onnx-calibrated for tests/reference/calibrated_onnx.py"]
fn write_the_calibrated_mind_for_onnx_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/onnx-calibrated");
    let _ = std::fs::remove_dir_all(&root);
    let mut conversations = serde_json::Map::new();
    for format in FORMATS {
        let model = root.join(format).join("model");
        std::fs::create_dir_all(root.join(format)).unwrap();
        calibrate(format, &model);
        FORMS.iter().for_each(|form| emit(format, form, &model, &root.join(format).join(form)));
        let mut cpu = Cpu::open(&model);
        let spoken: Vec<Vec<u32>> = questions().iter().map(|(_, tokens)| cpu.conversation(tokens)).collect();
        let rows = spoken.iter().flat_map(|tokens| cpu.logits(tokens)).flatten();
        std::fs::write(root.join(format).join("cpu.f32"), rows.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
            .unwrap();
        conversations.insert(format.to_owned(), json!(spoken));
    }
    let lengths: Vec<usize> = questions().iter().map(|(_, tokens)| tokens.len()).collect();
    let case = json!({"capacity": CAPACITY, "questions": lengths, "conversations": conversations});
    std::fs::write(root.join("case.json"), case.to_string()).unwrap();
}

#[test]
fn the_calibrated_mind_and_its_graphs_are_those_that_were_run() {
    let reference = reference();
    for format in FORMATS {
        for form in FORMS {
            let out = calibrated(format).with_file_name(format!("{format}-{form}"));
            emit(format, form, &calibrated(format), &out);
            let told = "the folder or graph changed: cargo test --test onnx_calibrated -- --ignored write, then \
                        tests/reference/calibrated_onnx.py";
            assert_eq!(reference["runs"][format][form]["crc32"].as_u64(), Some(u64::from(crc_of(&out))), "{told}");
        }
    }
}

#[test]
fn the_graphs_choose_the_tokens_of_the_cpu_path_on_trained_weights() {
    let reference = reference();
    for format in FORMATS {
        let run = &reference["runs"][format];
        let mut cpu = Cpu::open(&calibrated(format));
        let conversations = run["conversations"].as_array().unwrap();
        let (mut all, mut same, mut total, mut rows) = (0, [0; 2], 0.0, 0);
        for (number, tokens) in conversations.iter().enumerate() {
            let logits = cpu.logits(&ids(tokens));
            all += logits.len();
            for (same, form) in same.iter_mut().zip(FORMS) {
                let chosen = ids(&run[form]["tokens"][number]);
                assert_eq!(chosen.len(), logits.len());
                *same += chosen.iter().zip(&logits).filter(|(chosen, row)| **chosen == best(row)).count();
            }
            // The logits where the answer begins.
            if let Some(row) = run["fused"]["logits"].get(number) {
                let row: Vec<f32> = row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
                let at = reference["questions"][number].as_u64().unwrap() as usize - 1;
                total += divergence(&row, &logits[at]);
                rows += 1;
            }
        }
        let kl = total / f64::from(rows);
        println!("{format}: fused {} and primitive {} of {all} tokens", same[0], same[1]);
        println!(
            "  KL {:.1e} when recorded over all of them, {kl:.1e} now over {rows}",
            run["fused"]["kl"].as_f64().unwrap()
        );
        for same in same {
            assert!(same * 100 >= all * 95, "{format}: {same} of {all} tokens");
        }
        assert!(run["fused"]["kl"].as_f64().unwrap() < 1e-3 && kl < 1e-3, "{format}: KL {kl}");
    }
}

#[test]
fn sage_ask_says_what_the_graphs_said() {
    let reference = reference();
    let tokenizer = Tokenizer::load(&mind()).unwrap();
    let questions = questions();
    let mut same = 0;
    for format in FORMATS {
        for number in [0, 5, 9] {
            // What was chosen after the question's last token, and after each token of the answer.
            let chosen = ids(&reference["runs"][format]["fused"]["tokens"][number]);
            let answer = &chosen[questions[number].1.len() - 1..chosen.len() - 1];
            let most = ANSWER.to_string();
            let args = ["ask", "--greedy", "--threads", "1", "--system", "You are Sage, a small robot."];
            let more = ["--max-new-tokens", &most, &questions[number].0];
            let said = sage(&[&args[..], &more[..]].concat(), &[("--model", &calibrated(format))]);
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            let want = tokenizer.decode(answer);
            println!("{format}: {want:?}");
            same += usize::from(said.trim_end() == want.trim_end());
        }
    }
    // One token of twenty may differ, and then the rest of that answer does.
    assert!(same >= 10, "{same} of 12 answers");
}

/// The module's tensors in the calibrated mind.
fn low_bit(model: &Path, module: &str) -> LowBit {
    let (checkpoint, declared) = (Checkpoint::open(model).unwrap(), Declared::read(model).unwrap().unwrap());
    let shape = checkpoint.get(&format!("{module}.weight")).unwrap().shape.clone();
    LowBit::find(&checkpoint, &declared, module, (shape[0], shape[1] * 2)).unwrap().unwrap()
}

#[test]
fn nvfp4_weights_of_the_calibrated_mind_are_decoded_to_the_bit() {
    let reference = reference();
    let wanted = reference["nvfp4_weights"].as_object().unwrap();
    assert_eq!(wanted.len(), 28);
    for (module, crc) in wanted {
        let low = low_bit(&calibrated("nvfp4"), module);
        let (mut row, mut hasher) = (vec![0.0; low.columns], crc32fast::Hasher::new());
        for index in 0..low.rows {
            low.widen_row(index, &mut row);
            row.iter().for_each(|x| hasher.update(&x.to_le_bytes()));
        }
        assert_eq!(Some(u64::from(hasher.finalize())), crc.as_u64(), "{module}");
    }
}

/// Inputs of every size for `columns`: the same as in calibrated_onnx.py.
fn inputs(rows: usize, columns: usize, scale: f32) -> Vec<f32> {
    let base = start("nvfp4.product", 0);
    (0..rows * columns)
        .map(|i| {
            let whole = (hashed(base, i) >> 40) as i64 - (1 << 23);
            let (row, block) = (i / columns, i % columns / 16);
            match row % 8 {
                // Quarters of steps, in a block whose scale is exact, so that there are ties.
                0 => scale * if i % 16 == 0 { 6.0 } else { (whole.rem_euclid(49) - 24) as f32 / 4.0 },
                // Blocks of zeros beside others.
                1 if block % 2 == 0 => 0.0,
                // Beyond the range that the scale was made for.
                2 => whole as f32 * scale,
                // About the smallest block scale.
                3 => whole as f32 * scale * 2f32.powi(-30),
                _ => whole as f32 / (1 << 23) as f32 * 2f32.powi((block % 9) as i32 - 5),
            }
        })
        .collect()
}

#[test]
fn products_with_inputs_in_nvfp4_are_those_of_nvidias_definition() {
    let reference = reference();
    for (module, product) in reference["nvfp4_products"].as_object().unwrap() {
        let low = low_bit(&calibrated("nvfp4"), module);
        let rows = product["rows"].as_u64().unwrap() as usize;
        let x = inputs(rows, low.columns, low.input_scale.unwrap());
        let (mut rounded, mut hasher) = (vec![0.0; low.columns], crc32fast::Hasher::new());
        let mut weights = vec![vec![0.0; low.columns]; low.rows];
        weights.iter_mut().enumerate().for_each(|(index, row)| low.widen_row(index, row));
        let mut worst = 0.0f64;
        for (index, x) in x.chunks_exact(low.columns).enumerate() {
            low.round_inputs(x, &mut rounded);
            // Zeros of both signs are one.
            rounded.iter().for_each(|x| hasher.update(&(x + 0.0).to_le_bytes()));
            let wanted = product["first_outputs"][index].as_array();
            for (row, want) in weights.iter().zip(wanted.into_iter().flatten()) {
                let sum: f64 = row.iter().zip(&rounded).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                let size: f64 = row.iter().zip(&rounded).map(|(&w, &x)| (f64::from(w) * f64::from(x)).abs()).sum();
                worst = worst.max((sum - want.as_f64().unwrap()).abs() / size.max(f64::MIN_POSITIVE));
            }
        }
        println!("{module}: {rows} rows of inputs equal to the bit, products differ by {worst:.1e} of their terms");
        assert_eq!(Some(u64::from(hasher.finalize())), product["inputs_crc32"].as_u64(), "{module}");
        assert!(worst < 1e-12, "{module}: {worst}");
    }
}
