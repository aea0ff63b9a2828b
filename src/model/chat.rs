//! The chat format of Qwen2.5 (ChatML): messages, tools and tool responses as one prompt.
//! Flows in: messages. Flows out: the text that `apply_chat_template` of `transformers` renders from Qwen2.5's template.

use super::{ModelError, read_json, read_text};
use serde_json::Value;
use serde_json::ser::Formatter;
use std::io;
use std::path::Path;

/// What Qwen2.5 is told when the conversation has no system message.
pub const DEFAULT_SYSTEM: &str = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";

/// What Qwen2 (before 2.5) is told then.
const QWEN2_SYSTEM: &str = "You are a helpful assistant.";

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A call that the model made.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Which tool.
    pub name: String,
    /// Its arguments, an object.
    pub arguments: Value,
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Calls made in it (assistant only).
    pub calls: Vec<ToolCall>,
}

impl Message {
    /// A message without calls.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into(), calls: Vec::new() }
    }
}

/// Renders a conversation and opens the assistant's turn. `tools` are JSON schemas of functions.
pub fn render(messages: &[Message], tools: &[Value]) -> String {
    render_for(Some(DEFAULT_SYSTEM), messages, tools)
}

/// As [`render`], for a template whose own system message is `own` (see [`own_system`]).
pub fn render_for(own: Option<&str>, messages: &[Message], tools: &[Value]) -> String {
    let mut out = String::new();
    let given = messages.first().filter(|message| message.role == Role::System);
    let system = given.map(|message| message.content.as_str()).or(own);
    if system.is_some() || !tools.is_empty() {
        out.push_str("<|im_start|>system\n");
        out.push_str(system.unwrap_or_default());
        if !tools.is_empty() {
            push_tools(&mut out, tools);
        }
        out.push_str(END_OF_TURN);
    }
    for (index, message) in messages.iter().enumerate() {
        match message.role {
            Role::System if index == 0 => {}
            Role::Tool => {
                let follows = |at: Option<&Message>| at.is_some_and(|message| message.role == Role::Tool);
                let first = index == 0 || !follows(messages.get(index - 1));
                push_response(&mut out, message, first, !follows(messages.get(index + 1)));
            }
            Role::Assistant if !message.calls.is_empty() => push_calls(&mut out, message),
            role => push_turn(&mut out, role, &message.content),
        }
    }
    out.push_str("<|im_start|>assistant\n");
    out
}

/// The system message that a model's own template adds to a conversation without one: Qwen2.5's, Qwen2's shorter one, or
/// none. A folder without a template is taken as Qwen2.5's.
///
/// # Errors
/// `tokenizer_config.json` is there and not JSON, or `chat_template.jinja` cannot be read.
pub fn own_system(directory: &Path) -> Result<Option<&'static str>, ModelError> {
    let (file, config) = (directory.join("chat_template.jinja"), directory.join("tokenizer_config.json"));
    let template = if file.is_file() {
        Some(read_text(&file)?)
    } else if config.is_file() {
        read_json(&config)?["chat_template"].as_str().map(str::to_owned)
    } else {
        None
    };
    let Some(template) = template else { return Ok(Some(DEFAULT_SYSTEM)) };
    Ok([DEFAULT_SYSTEM, QWEN2_SYSTEM].into_iter().find(|system| template.contains(system)))
}

/// The text that ends a turn, to be appended when an answer was cut.
pub const END_OF_TURN: &str = "<|im_end|>\n";

fn push_turn(out: &mut String, role: Role, content: &str) {
    out.push_str("<|im_start|>");
    out.push_str(role.name());
    out.push('\n');
    out.push_str(content);
    out.push_str(END_OF_TURN);
}

fn push_tools(out: &mut String, tools: &[Value]) {
    out.push_str(
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
         You are provided with function signatures within <tools></tools> XML tags:\n<tools>",
    );
    for tool in tools {
        out.push('\n');
        out.push_str(&python_json(tool));
    }
    out.push_str(
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments within \
         <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>",
    );
}

fn push_calls(out: &mut String, message: &Message) {
    out.push_str("<|im_start|>assistant");
    if !message.content.is_empty() {
        out.push('\n');
        out.push_str(&message.content);
    }
    for call in &message.calls {
        out.push_str("\n<tool_call>\n{\"name\": \"");
        out.push_str(&call.name);
        out.push_str("\", \"arguments\": ");
        out.push_str(&python_json(&call.arguments));
        out.push_str("}\n</tool_call>");
    }
    out.push_str(END_OF_TURN);
}

fn push_response(out: &mut String, message: &Message, first: bool, last: bool) {
    if first {
        out.push_str("<|im_start|>user");
    }
    out.push_str("\n<tool_response>\n");
    out.push_str(&message.content);
    out.push_str("\n</tool_response>");
    if last {
        out.push_str(END_OF_TURN);
    }
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it: a space after each comma and colon.
fn python_json(value: &Value) -> String {
    struct Python;
    impl Formatter for Python {
        fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { writer.write_all(b", ") }
        }
        fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { writer.write_all(b", ") }
        }
        fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
            writer.write_all(b": ")
        }
        fn write_f64<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
            writer.write_all(python_float(value).as_bytes())
        }
    }
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Python);
    // Writing a Value into memory cannot fail.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Python's `repr` of a float: exponents from 1e16 up and below 1e-4, at least two exponent digits, signed.
fn python_float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_system_message_is_qwens_own() {
        let text = render(&[Message::new(Role::User, "hi")], &[]);
        let expected = format!(
            "<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn the_models_own_template_says_what_stands_for_a_missing_system_message() {
        let folder = tempfile::tempdir().unwrap();
        let own = |template: &str| {
            let config = json!({ "chat_template": template }).to_string();
            std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
            own_system(folder.path()).unwrap()
        };
        assert_eq!(
            own("{{ 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}"),
            Some(DEFAULT_SYSTEM)
        );
        assert_eq!(own("{{ 'You are a helpful assistant.' }}"), Some(QWEN2_SYSTEM));
        assert_eq!(own("{{ message.content }}"), None);
        let asked = [Message::new(Role::User, "hi")];
        assert!(render_for(None, &asked, &[]).starts_with("<|im_start|>user\nhi"));
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (value, text) in [
            (1.0, "1.0"),
            (1e-5, "1e-05"),
            (1.5e16, "1.5e+16"),
            (1e15, "1000000000000000.0"),
            (0.1, "0.1"),
            (-2.5e-7, "-2.5e-07"),
        ] {
            assert_eq!(python_json(&json!(value)), text);
        }
    }
}
