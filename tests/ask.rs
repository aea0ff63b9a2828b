//! `sage ask` and `sage chat` as a user meets them: through the binary, on a small random model.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A model folder: weights of the reference case whose vocabulary has room for the reference tokenizer.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let cases = checkpoint::cases();
    cases.iter().find(|case| case.size("vocabulary") == 600).unwrap().write(folder.path(), 2);
    let tokenizer = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizer.json");
    std::fs::copy(tokenizer, folder.path().join("tokenizer.json")).unwrap();
    folder
}

fn sage(model: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sage"));
    command.args(arguments).arg("--model").arg(model).args(["--threads", "1"]);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_json_object_has_the_promised_fields_and_agrees_with_what_is_streamed() {
    let folder = model();
    let ask = ["ask", "Where is the charger?", "--greedy", "--max-new-tokens", "12"];
    let answer = json(&sage(folder.path(), &[&ask[..], &["--json"]].concat()));
    let fields: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    let promised = [
        "text",
        "tokens",
        "prompt_tokens",
        "finish_reason",
        "load_ms",
        "prefill_ms",
        "decode_ms_p50",
        "decode_ms_p99",
        "tokens_per_s",
        "rss_bytes",
        "weights_bytes",
        "kv_bytes",
    ];
    assert_eq!(fields, promised);
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 12);
    assert_eq!(answer["finish_reason"], "length");
    for positive in ["load_ms", "prefill_ms", "decode_ms_p50", "tokens_per_s", "rss_bytes", "kv_bytes"] {
        assert!(answer[positive].as_f64().unwrap() > 0.0, "{positive}");
    }
    let number = |field: &str| answer[field].as_f64().unwrap();
    assert!(number("decode_ms_p99") >= number("decode_ms_p50"));
    // Eleven steps follow the first token; their mean lies between the fastest and the slowest.
    assert!(1e3 / number("tokens_per_s") <= number("decode_ms_p99") + 0.01, "{answer}");
    let tokenizer = sage::model::tokenizer::Tokenizer::load(folder.path()).unwrap();
    let tokens: Vec<u32> = answer["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    assert_eq!(answer["text"], tokenizer.decode(&tokens));
    let config = sage::model::qwen2::Qwen2Config::load(folder.path()).unwrap();
    // Whole blocks of 16 tokens, in f32, for the prompt and the longest answer.
    let room = (answer["prompt_tokens"].as_u64().unwrap() as usize + 12).next_multiple_of(16);
    assert_eq!(answer["kv_bytes"], room * config.layers * config.kv_heads * config.head_dim * 2 * 4);
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
    let weights = files.filter(|file| file.path().extension().is_some_and(|ext| ext == "safetensors"));
    assert_eq!(answer["weights_bytes"], weights.map(|file| file.metadata().unwrap().len()).sum::<u64>());

    let streamed = sage(folder.path(), &ask);
    assert_eq!(text(&streamed.stdout), format!("{}\n", answer["text"].as_str().unwrap()));
}

#[test]
fn a_raw_prompt_is_taken_as_it_is_and_a_chat_prompt_is_wrapped() {
    let folder = model();
    let count = |more: &[&str]| {
        let ask = [&["ask", "hello", "--json", "--max-new-tokens", "1"], more].concat();
        json(&sage(folder.path(), &ask))["prompt_tokens"].as_u64().unwrap() as usize
    };
    let tokenizer = sage::model::tokenizer::Tokenizer::load(folder.path()).unwrap();
    assert_eq!(count(&["--raw"]), tokenizer.encode("hello").unwrap().len());
    let wrapped = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(count(&["--system", "Be brief."]), tokenizer.encode(wrapped).unwrap().len());
}

#[test]
fn the_same_seed_gives_the_same_answer_and_another_seed_another() {
    let folder = model();
    let settings = r#"{"do_sample": true, "temperature": 1.0, "top_k": 0, "eos_token_id": []}"#;
    std::fs::write(folder.path().join("generation_config.json"), settings).unwrap();
    let draw = |seed: &str| {
        let ask = ["ask", "tell me", "--json", "--max-new-tokens", "20", "--seed", seed];
        json(&sage(folder.path(), &ask))["tokens"].clone()
    };
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

#[test]
fn what_is_missing_is_said_in_one_sentence_with_exit_code_2() {
    let refuse = |folder: &Path, says: &str| {
        let output = sage(folder, &["ask", "hello"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(says) && error.trim_end().lines().count() == 1, "{error}");
        assert!(output.stdout.is_empty());
    };
    refuse(Path::new("/nowhere/at/all"), "/nowhere/at/all is not a folder");
    let folder = model();
    let spoil = |file: &str, content: Option<&str>, says: &str| {
        let path = folder.path().join(file);
        let kept = std::fs::read(&path).unwrap();
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        refuse(folder.path(), says);
        std::fs::write(&path, kept).unwrap();
    };
    spoil("tokenizer.json", None, "tokenizer.json");
    spoil("config.json", Some(r#"{"model_type": "llama"}"#), "`model_type` is `llama`");
    spoil("model-00002-of-00002.safetensors", None, "model-00002-of-00002.safetensors");
    let output = sage(folder.path(), &["ask", "", "--raw"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the prompt is empty"));
}

#[test]
fn an_answer_under_a_schema_is_json_that_follows_it_even_from_a_random_model() {
    let folder = model();
    let schema = folder.path().join("action.json");
    let action = r#"{"type": "object", "additionalProperties": false, "required": ["action", "target"],
                     "properties": {"action": {"enum": ["go", "search"]}, "target": {"enum": ["person", "charger"]}}}"#;
    std::fs::write(&schema, action).unwrap();
    let settings = r#"{"do_sample": true, "temperature": 2.0, "top_k": 0}"#;
    std::fs::write(folder.path().join("generation_config.json"), settings).unwrap();
    for seed in ["1", "2", "3"] {
        let ask = ["ask", "what now?", "--json", "--seed", seed, "--schema", schema.to_str().unwrap()];
        let answer = json(&sage(folder.path(), &ask));
        assert_eq!(answer["finish_reason"], "stop");
        let said: Value = serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
        assert!(["go", "search"].contains(&said["action"].as_str().unwrap()), "{said}");
        assert!(["person", "charger"].contains(&said["target"].as_str().unwrap()), "{said}");
    }
    std::fs::write(&schema, "{").unwrap();
    let output = sage(folder.path(), &["ask", "what now?", "--schema", schema.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("action.json"));
}

#[test]
fn the_suite_asks_three_questions_and_measures_memory() {
    let folder = model();
    let report = folder.path().join("report.json");
    let suite = ["ask", "--suite", "thor", "--max-new-tokens", "4", "--report", report.to_str().unwrap()];
    let output = sage(folder.path(), &suite);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["results"].as_array().unwrap().len(), 3);
    assert!(report["memory"]["rss_bytes"].as_u64().unwrap() > 0);
    assert_eq!(report["results"][2]["tokens"].as_array().unwrap().len(), 4);
}

#[test]
fn a_conversation_from_a_file_answers_every_line_and_remembers_the_turns_before() {
    let folder = model();
    let talk = |lines: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sage"));
        command.args(["chat", "--greedy", "--max-new-tokens", "8", "--threads", "1", "--model"]).arg(folder.path());
        let mut chat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        chat.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = chat.wait_with_output().unwrap();
        assert!(output.status.success());
        text(&output.stdout)
    };
    let answers = |lines: &str| {
        let text = talk(lines);
        let answers: Vec<String> = text.split("> ").skip(1).map(str::to_owned).collect();
        answers
    };
    let two = answers("one\ntwo\n");
    assert_eq!(two.len(), 3, "an answer per line and a last mark: {two:?}");
    // The second answer depends on the first turn; after /new it does not.
    let alone = answers("two\n");
    assert_ne!(two[1], alone[0]);
    assert_eq!(answers("one\n/new\ntwo\n").iter().rev().nth(1), Some(&alone[0]));
}

#[test]
fn numbers_at_their_limits_are_answered_and_do_not_crash() {
    let folder = model();
    let says = |arguments: &[&str]| {
        let output = sage(folder.path(), arguments);
        (output.status.code(), text(&output.stderr))
    };
    // The context ends the answer, which otherwise has no end.
    let ask = ["ask", "hello", "--json", "--greedy", "--max-new-tokens", "18446744073709551615"];
    let settings = r#"{"eos_token_id": []}"#;
    std::fs::write(folder.path().join("generation_config.json"), settings).unwrap();
    let config = folder.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    json["max_position_embeddings"] = 100.into();
    std::fs::write(&config, json.to_string()).unwrap();
    let answer = self::json(&sage(folder.path(), &ask));
    assert_eq!(answer["finish_reason"], "context");
    let (code, error) = says(&["ask", "", "--raw", "--max-new-tokens", "0"]);
    assert_eq!((code, error.contains("the prompt is empty")), (Some(2), true), "{error}");
    let (code, error) = says(&["chat", "--context", "0"]);
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn an_answer_that_is_cut_before_its_json_is_complete_is_told_and_fails() {
    let folder = model();
    let schema = folder.path().join("word.json");
    std::fs::write(&schema, r#"{"type": "string", "minLength": 50}"#).unwrap();
    let ask = ["ask", "what now?", "--max-new-tokens", "3", "--schema", schema.to_str().unwrap()];
    let output = sage(folder.path(), &ask);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("cut after 3 tokens") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_line_that_is_no_utf8_does_not_end_the_conversation() {
    let folder = model();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sage"));
    command.args(["chat", "--greedy", "--max-new-tokens", "4", "--threads", "1", "--model"]).arg(folder.path());
    let mut chat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(b"one\nna\xefve\nthree").unwrap();
    let output = chat.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("> ").count(), 4, "three answers and a last mark");
}

#[test]
fn a_model_whose_logits_are_no_numbers_says_so_and_answers_nothing() {
    let folder = model();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "safetensors") {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..data]).unwrap();
        if let Some([from, to]) = header["model.norm.weight"]["data_offsets"].as_array().map(Vec::as_slice) {
            // Not a number in every type of floats.
            bytes[data + from.as_u64().unwrap() as usize..data + to.as_u64().unwrap() as usize].fill(0xff);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let answer = sage(folder.path(), &["ask", "Where is the charger?", "--json"]);
    assert_eq!((answer.status.code(), text(&answer.stdout)), (Some(2), String::new()));
    assert!(text(&answer.stderr).contains("logits are no numbers"), "{}", text(&answer.stderr));
}
