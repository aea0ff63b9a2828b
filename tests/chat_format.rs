//! Tokenizer and chat format against Hugging Face: what `transformers` made of Qwen2.5's chat template, and the ids and
//! text of awkward strings. References: tests/reference/chat.py.

use sage::model::chat::{Message, Role, ToolCall, render};
use sage::model::tokenizer::{TextStream, Tokenizer};
use serde_json::Value;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

fn reference(key: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("chat.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    json[key].as_array().unwrap().clone()
}

fn ids(json: &Value) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn message(json: &Value) -> Message {
    let role = match json["role"].as_str().unwrap() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => Role::Tool,
    };
    let mut message = Message::new(role, json["content"].as_str().unwrap());
    for call in json["tool_calls"].as_array().into_iter().flatten() {
        let call = call.get("function").unwrap_or(call);
        let name = call["name"].as_str().unwrap().to_owned();
        message.calls.push(ToolCall { name, arguments: call["arguments"].clone() });
    }
    message
}

#[test]
fn conversations_are_rendered_as_transformers_renders_them() {
    let tokenizer = Tokenizer::load(&folder()).unwrap();
    let conversations = reference("conversations");
    assert!(conversations.len() >= 12);
    for case in conversations {
        let messages: Vec<Message> = case["messages"].as_array().unwrap().iter().map(message).collect();
        let text = render(&messages, case["tools"].as_array().unwrap());
        assert_eq!(text, case["text"].as_str().unwrap());
        assert_eq!(tokenizer.encode(&text).unwrap(), ids(&case["ids"]), "{text}");
    }
}

#[test]
fn texts_become_the_ids_of_transformers_and_come_back() {
    let tokenizer = Tokenizer::load(&folder()).unwrap();
    for case in reference("texts") {
        let text = case["text"].as_str().unwrap();
        let want = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(text).unwrap(), want, "{text:?}");
        assert_eq!(tokenizer.decode(&want), case["decoded"].as_str().unwrap(), "{text:?}");
    }
}

#[test]
fn text_streamed_token_by_token_is_the_text_decoded_at_once() {
    let tokenizer = Tokenizer::load(&folder()).unwrap();
    for case in reference("texts") {
        let (mut stream, mut text) = (TextStream::default(), String::new());
        for id in ids(&case["ids"]) {
            let before = text.len();
            stream.push(tokenizer.bytes_of(id), &mut text);
            assert!(!text[before..].contains('\u{fffd}'), "a character was split in {text:?}");
        }
        stream.finish(&mut text);
        assert_eq!(text, case["decoded"].as_str().unwrap());
    }
}
