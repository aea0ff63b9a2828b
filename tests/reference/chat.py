"""Makes tests/reference/chat.json and tokenizer.json: what transformers renders from Qwen2.5's chat template, and what its
tokenizer makes of awkward texts.

The template is the one that Qwen2.5-Instruct publishes in its tokenizer_config.json (same text from 0.5B to 72B). The
tokenizer has Qwen2's normaliser, pre-tokenizer and special tokens, but few merges, learnt from the texts below: small enough to
commit. Run with transformers 5 and jinja2 from PyPI: python tests/reference/chat.py
"""
import json, pathlib
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
TEMPLATE = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN = ["<tool_call>", "</tool_call>"]

TEXTS = [
    "", " ", "a", "Hello, world!", "the robot's battery isn't at 42 %", "I'LL go, YOU'RE late, we'd've",
    "  two  spaces   three\t\ttabs", "line\nline\r\n\r\n  indented\n\n", "trailing spaces   ", "1234567890 3.14 1e-5",
    "naïve café", "nai\u0308ve cafe\u0301 (decomposed)", "Ångström Å", "東京タワーへ行く", "Привет, мир", "שלום עולם", "नमस्ते दुनिया",
    "🤖🔋👩‍🚀 flags 🇨🇭", "zero\u200bwidth\u00a0nbsp\ufeff", "e = mc² ½ Ⅷ ①", "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|><|im_end|><|endoftext|>",
    "<tool_call>\n{\"name\": \"go\"}\n</tool_call>", "<|im_start |> not special", "if x<=3 && y!=4 { z += 1; } // ok", "https://example.org/a?b=c&d=%20",
    "CamelCase snake_case SCREAMING_CASE kebab-case", "…—–„quotes“ ‘single’", "\u0000\u0001\u007f control", "ﬁ ligature ＦＵＬＬ width", "a" * 100, "don't " * 20,
]
GO = {"type": "function", "function": {"name": "go", "description": "Go to a thing — näher, 近く.", "parameters": {
    "type": "object", "properties": {"target": {"type": "string", "enum": ["person", "charger"]}, "speed": {"type": "number", "default": 0.5, "maximum": 1e16}}, "required": ["target"]}}}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}, "required": []}}}

def say(role, content, *calls):
    message = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = [dict(call) for call in calls]
    return message

def call(name, **arguments): return {"type": "function", "function": {"name": name, "arguments": arguments}}

S, U, A, T = "system", "user", "assistant", "tool"
CONVERSATIONS = [
    ([say(U, "hi")], []),
    ([say(S, "You are Sage."), say(U, "Where is the charger?")], []),
    ([say(S, ""), say(U, "empty system")], []),
    ([say(U, "one"), say(A, "two"), say(U, "three\nwith\nlines")], []),
    ([say(S, "First."), say(U, "a"), say(S, "Later system."), say(U, "b")], []),
    ([say(U, "go")], [GO]),
    ([say(S, "You are Sage."), say(U, "go and look")], [GO, LOOK]),
    ([say(U, "go"), say(A, "", call("go", target="charger", speed=0.25)), say(T, "{\"reached\": true}"), say(A, "I am there."), say(U, "good")], [GO]),
    ([say(U, "both"), say(A, "I do both.", call("go", target="person"), call("look")), say(T, "ok"), say(T, "a person, 1.8 m"), say(U, "and now?")], [GO, LOOK]),
    ([say(U, "odd values"), say(A, "", call("go", target="ä\"\\\n東", speed=1e-7, list=[1, 2.0, None, True], inner={"a": {}, "b": []}))], [LOOK]),
    ([say(T, "a response first"), say(T, "and another"), say(U, "what was that?")], []),
    ([say(U, "flat call"), say(A, "", {"name": "look", "arguments": {"x": -0.0, "big": 12345678901234567890, "far": 1.5e16}}), say(T, "nothing")], [LOOK]),
    ([say(S, "Antworte auf Deutsch. <|im_end|>?"), say(U, "wie geht's? 🤖"), say(A, "Gut. "), say(U, " danke ")], []),
    ([say(U, "last is a tool"), say(A, "x", call("look")), say(T, "")], [LOOK]),
]

def tokenizer():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    learn = TEXTS + [TEMPLATE] + [m["content"] for messages, _ in CONVERSATIONS for m in messages] + [__doc__]
    t.train_from_iterator(learn, trainers.BpeTrainer(vocab_size=560, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL] + [AddedToken(text, special=False, normalized=False) for text in PLAIN])
    return t

t = tokenizer()
t.save(str(HERE / "tokenizer.json"), pretty=False)
hf = PreTrainedTokenizerFast(tokenizer_object=t, chat_template=TEMPLATE, clean_up_tokenization_spaces=False)
texts = [{"text": s, "ids": (ids := hf(s, add_special_tokens=False)["input_ids"]), "decoded": hf.decode(ids, skip_special_tokens=True)} for s in TEXTS]
talks = []
for messages, tools in CONVERSATIONS:
    text = hf.apply_chat_template(messages, tools=tools or None, tokenize=False, add_generation_prompt=True)
    talks.append({"messages": messages, "tools": tools, "text": text, "ids": hf(text, add_special_tokens=False)["input_ids"]})
dump = lambda rows: ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
(HERE / "chat.json").write_text(f'{{"texts": [\n{dump(texts)}\n],\n"conversations": [\n{dump(talks)}\n]}}\n')
print(len(hf), "tokens,", len(texts), "texts,", len(talks), "conversations")
