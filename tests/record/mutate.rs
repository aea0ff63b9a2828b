//! Writes a log again with something changed, through the MCAP library itself: the result is a sound file, so that only
//! the replay can find the change.

use mcap::records::{MessageHeader, Metadata};
use sage::record::reader::{Item, LogReader, Message};
use std::collections::BTreeMap;
use std::path::Path;

/// Copies a log; `message` and `metadata` may change what passes, or drop it by returning false.
pub fn rewrite(
    from: &Path,
    to: &Path,
    message: impl FnMut(&mut Message) -> bool,
    metadata: impl FnMut(&str, &mut BTreeMap<String, String>),
) {
    rewrite_with(mcap::WriteOptions::new().compression(None), from, to, message, metadata);
}

/// The same with another layout.
pub fn rewrite_with(
    options: mcap::WriteOptions,
    from: &Path,
    to: &Path,
    mut message: impl FnMut(&mut Message) -> bool,
    mut metadata: impl FnMut(&str, &mut BTreeMap<String, String>),
) {
    let mut reader = LogReader::open(from).unwrap();
    let file = std::io::BufWriter::new(std::fs::File::create(to).unwrap());
    let mut writer = options.create(file).unwrap();
    let mut channels = BTreeMap::new();
    while let Some(item) = reader.next_item() {
        match item {
            Item::Metadata { name, mut map } => {
                metadata(&name, &mut map);
                writer.write_metadata(&Metadata { name, metadata: map }).unwrap();
            }
            Item::Message(mut read) => {
                if !message(&mut read) {
                    continue;
                }
                let channel = &read.channel;
                let id = *channels.entry(channel.id).or_insert_with(|| {
                    let encoding = if channel.encoding == "json" { "jsonschema" } else { &channel.encoding };
                    let schema = writer.add_schema(&channel.schema, encoding, b"").unwrap();
                    writer.add_channel(schema, &channel.topic, &channel.encoding, &channel.metadata).unwrap()
                });
                let header = MessageHeader {
                    channel_id: id,
                    sequence: read.sequence,
                    log_time: read.log_ns,
                    publish_time: read.publish_ns,
                };
                writer.write_to_known_channel(&header, &read.data).unwrap();
            }
        }
    }
    assert_eq!(reader.warnings(), [] as [String; 0]);
    writer.finish().unwrap();
}

/// Changes the inputs of one tick.
pub fn change_inputs(message: &mut Message, change: impl FnOnce(&mut sage::types::Inputs)) {
    use prost::Message as _;
    let mut tick = sage::record::proto::Tick::decode(message.data.as_slice()).unwrap();
    let mut inputs = postcard::from_bytes(&tick.inputs).unwrap();
    change(&mut inputs);
    tick.inputs = postcard::to_allocvec(&inputs).unwrap();
    message.data = tick.encode_to_vec();
}
