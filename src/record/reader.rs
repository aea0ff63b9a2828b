//! Reads any MCAP file from front to back: its own logs and others', chunked or not, any chunk compression, whole, cut
//! or damaged. A path flows in; messages and metadata flow out in file order, and warnings that say what could not be
//! read. The index is not needed, so a file that a crash left open reads like any other up to its end.

use mcap::records::{MessageHeader, Record};
use mcap::sans_io::linear_reader::{LinearReadEvent, LinearReader, LinearReaderOptions};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::message::looks_like;
pub use super::message::{Channel, Item, LogError, Message};

mod op {
    pub const HEADER: u8 = 0x01;
    pub const FOOTER: u8 = 0x02;
    pub const SCHEMA: u8 = 0x03;
    pub const CHANNEL: u8 = 0x04;
    pub const MESSAGE: u8 = 0x05;
    pub const CHUNK: u8 = 0x06;
    pub const METADATA: u8 = 0x0C;
    pub const DATA_END: u8 = 0x0F;
}

/// Bytes of opcode and length before each record.
const RECORD_HEAD: u64 = 9;
/// Bytes of a message record before its data.
const MESSAGE_HEAD: u64 = 22;
/// A record larger than this is taken for damage, bytes.
const LARGEST: u64 = 1 << 31;
/// The same for a record in a compressed chunk, for which memory is set aside before it is there.
const LARGEST_PACKED: usize = 1 << 28;

/// An uncompressed chunk that is being walked in the file.
struct OpenChunk {
    start: u64,
    end: u64,
    crc: u32,
    hasher: crc32fast::Hasher,
    /// Everything so far was read, so that the checksum means something.
    all_read: bool,
}

type Wanted = Box<dyn FnMut(&Channel) -> bool + Send>;

/// A log, read from front to back.
pub struct LogReader {
    path: PathBuf,
    file: BufReader<File>,
    len: u64,
    pos: u64,
    schemas: BTreeMap<u16, String>,
    channels: BTreeMap<u16, (Arc<Channel>, bool)>,
    chunk: Option<OpenChunk>,
    decompressed: VecDeque<Record<'static>>,
    wanted: Wanted,
    warnings: Vec<String>,
    ended: bool,
    body: Vec<u8>,
}

impl LogReader {
    /// Opens a log.
    ///
    /// # Errors
    /// `Io` if it cannot be read, `Format` with one sentence if it is something else.
    pub fn open(path: &Path) -> Result<LogReader, LogError> {
        let io_error = |source| LogError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io_error)?;
        let about = file.metadata().map_err(io_error)?;
        if about.is_dir() {
            let looks = ": it is a folder; name a file in it".to_owned();
            return Err(LogError::Format { path: path.to_owned(), looks });
        }
        let mut head = [0u8; 16];
        let mut got = 0;
        while got < head.len() {
            match file.read(&mut head[got..]).map_err(io_error)? {
                0 => break,
                n => got += n,
            }
        }
        if got < 8 || head[..8] != *mcap::MAGIC {
            return Err(LogError::Format { path: path.to_owned(), looks: looks_like(&head[..got]) });
        }
        file.seek(SeekFrom::Start(8)).map_err(io_error)?;
        Ok(LogReader {
            path: path.to_owned(),
            file: BufReader::with_capacity(256 * 1024, file),
            len: about.len(),
            pos: 8,
            schemas: BTreeMap::new(),
            channels: BTreeMap::new(),
            chunk: None,
            decompressed: VecDeque::new(),
            wanted: Box::new(|_| true),
            warnings: Vec::new(),
            ended: false,
            body: Vec::new(),
        })
    }

    /// Reads only messages of channels that `wanted` accepts; others are skipped without being read where possible.
    #[must_use]
    pub fn only(mut self, wanted: impl FnMut(&Channel) -> bool + Send + 'static) -> LogReader {
        self.wanted = Box::new(wanted);
        self
    }

    /// What could not be read so far, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Channels seen so far.
    pub fn channels(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.channels.values().map(|(channel, _)| channel)
    }

    fn warn(&mut self, text: String) {
        if self.warnings.len() < 20 {
            self.warnings.push(text);
        }
    }

    /// The next message or metadata record; `None` at the end of what is readable.
    pub fn next_item(&mut self) -> Option<Item> {
        loop {
            if let Some(record) = self.decompressed.pop_front() {
                match self.take(record) {
                    Some(item) => return Some(item),
                    None => continue,
                }
            }
            if self.ended {
                return None;
            }
            match self.step() {
                Ok(Some(item)) => return Some(item),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    let text = format!("the log ends in the middle of a record, at byte {}: it was cut", self.len);
                    self.warn(text);
                }
                Err(error) => {
                    self.ended = true;
                    let text = format!("reading stopped at byte {}: {error}", self.pos);
                    self.warn(text);
                }
            }
        }
    }

    fn step(&mut self) -> io::Result<Option<Item>> {
        if let Some(chunk) = &self.chunk
            && self.pos >= chunk.end
        {
            self.close_chunk();
        }
        if self.pos >= self.len {
            self.ended = true;
            self.warn("the log has no end mark: the program that wrote it stopped before it could close it".to_owned());
            return Ok(None);
        }
        let at = self.pos;
        let mut head = [0u8; RECORD_HEAD as usize];
        self.read(&mut head)?;
        let [opcode, len @ ..] = head;
        let len = u64::from_le_bytes(len);
        let room = self.chunk.as_ref().map_or(self.len, |chunk| chunk.end).saturating_sub(self.pos);
        let foreign = match self.chunk {
            Some(_) => !matches!(opcode, op::SCHEMA | op::CHANNEL | op::MESSAGE | 0x80..),
            None => !matches!(opcode, op::HEADER..=op::DATA_END | 0x80..),
        };
        if foreign || len > LARGEST || (self.chunk.is_some() && len > room) {
            return self.resynchronise(at).map(|()| None);
        }
        match opcode {
            op::MESSAGE if len >= MESSAGE_HEAD => self.message(len),
            op::CHUNK => self.open_chunk(at, len).map(|()| None),
            op::FOOTER | op::DATA_END => {
                self.ended = true;
                Ok(None)
            }
            op::SCHEMA | op::CHANNEL | op::METADATA => {
                let mut body = std::mem::take(&mut self.body);
                let read = self.fill(&mut body, len, room);
                let record = read.map(|()| mcap::parse_record(opcode, &body).map(Record::into_owned));
                self.body = body;
                match record? {
                    Ok(record) => Ok(self.take(record)),
                    Err(error) => {
                        self.warn(format!("the record at byte {at} cannot be understood ({error}) and was left out"));
                        Ok(None)
                    }
                }
            }
            // Read, not skipped, inside a chunk: its checksum tells a record we do not know from damage.
            _ if self.chunk.is_some() => {
                let mut body = std::mem::take(&mut self.body);
                let read = self.fill(&mut body, len, room);
                self.body = body;
                read.map(|()| None)
            }
            0x80.. => {
                self.warn(format!("the record of kind {opcode} at byte {at} is not known and was left out"));
                self.skip(len, room).map(|()| None)
            }
            _ => self.skip(len, room).map(|()| None),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(into)?;
        self.pos += into.len() as u64;
        if let Some(chunk) = &mut self.chunk {
            chunk.hasher.update(into);
        }
        Ok(())
    }

    /// Reads `len` bytes, but never makes room for more than the file can still hold.
    fn fill(&mut self, into: &mut Vec<u8>, len: u64, room: u64) -> io::Result<()> {
        if len > room.min(self.len.saturating_sub(self.pos)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into.clear();
        into.resize(len as usize, 0);
        self.read(into)
    }

    fn skip(&mut self, len: u64, room: u64) -> io::Result<()> {
        if len > room.min(self.len.saturating_sub(self.pos)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.seek_relative(len as i64)?;
        self.pos += len;
        if let Some(chunk) = &mut self.chunk {
            chunk.all_read = false;
        }
        Ok(())
    }

    fn message(&mut self, len: u64) -> io::Result<Option<Item>> {
        let mut head = [0u8; MESSAGE_HEAD as usize];
        self.read(&mut head)?;
        let room = self.chunk.as_ref().map_or(self.len, |chunk| chunk.end).saturating_sub(self.pos);
        let number = |at: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let header = MessageHeader {
            channel_id: u16::from_le_bytes([head[0], head[1]]),
            sequence: u32::from_le_bytes([head[2], head[3], head[4], head[5]]),
            log_time: number(6),
            publish_time: number(14),
        };
        let len = len - MESSAGE_HEAD;
        let Some(channel) = self.wanted_channel(header.channel_id) else {
            return self.skip(len, room).map(|()| None);
        };
        let mut data = Vec::new();
        self.fill(&mut data, len, room)?;
        Ok(Some(message(channel, header, data)))
    }

    /// The channel if it is known and wanted.
    fn wanted_channel(&mut self, id: u16) -> Option<Arc<Channel>> {
        match self.channels.get(&id) {
            Some((channel, wanted)) => wanted.then(|| channel.clone()),
            None => {
                let text = format!("messages of channel {id}, which the log does not describe, were left out");
                if !self.warnings.contains(&text) {
                    self.warn(text);
                }
                None
            }
        }
    }

    fn open_chunk(&mut self, at: u64, len: u64) -> io::Result<()> {
        let mut fixed = [0u8; 32];
        self.read(&mut fixed)?;
        let text_len = u64::from(u32::from_le_bytes([fixed[28], fixed[29], fixed[30], fixed[31]]));
        if text_len > 64 || 32 + text_len + 8 > len {
            return self.resynchronise(at);
        }
        let mut text = vec![0u8; text_len as usize];
        self.read(&mut text)?;
        let mut size_bytes = [0u8; 8];
        self.read(&mut size_bytes)?;
        let size = u64::from_le_bytes(size_bytes);
        if 32 + text_len + 8 + size != len {
            return self.resynchronise(at);
        }
        // The same head with no data behind it: only the header is wanted here.
        let empty = [&fixed[..], &text, &[0; 8]].concat();
        let Ok(Record::Chunk { header, .. }) = mcap::parse_record(op::CHUNK, &empty) else {
            return self.resynchronise(at);
        };
        if header.compression.is_empty() {
            self.chunk = Some(OpenChunk {
                start: at,
                end: self.pos + size,
                crc: header.uncompressed_crc,
                hasher: crc32fast::Hasher::new(),
                all_read: true,
            });
            return Ok(());
        }
        if header.uncompressed_size > LARGEST {
            self.warn(format!(
                "the chunk at byte {at} says it holds {} bytes and was left out",
                header.uncompressed_size
            ));
            return self.skip(size, self.len - self.pos);
        }
        let mut body = std::mem::take(&mut self.body);
        let read = self.fill(&mut body, size, self.len - self.pos);
        if read.is_ok() {
            let head = [&[op::CHUNK], &len.to_le_bytes()[..], &fixed, &text, &size_bytes].concat();
            self.decompress(at, &head, &body);
        }
        self.body = body;
        read
    }

    /// Unpacks a chunk whose record begins with `head` and goes on with `body`.
    fn decompress(&mut self, at: u64, head: &[u8], body: &[u8]) {
        let options = LinearReaderOptions::default()
            .with_skip_start_magic(true)
            .with_skip_end_magic(true)
            .with_validate_chunk_crcs(true)
            .with_record_length_limit(LARGEST_PACKED);
        let mut unpacker = LinearReader::new_with_options(options);
        let mut input = head.chain(body);
        let failed = loop {
            match unpacker.next_event() {
                Some(Ok(LinearReadEvent::ReadRequest(need))) => match input.read(unpacker.insert(need)) {
                    // The record is over; what the reader still asks for is the next one.
                    Ok(0) | Err(_) => return,
                    Ok(n) => unpacker.notify_read(n),
                },
                Some(Ok(LinearReadEvent::Record { data, opcode })) => match mcap::parse_record(opcode, data) {
                    Ok(record) => self.decompressed.push_back(record.into_owned()),
                    Err(error) => break error,
                },
                Some(Err(error)) => break error,
                None => return,
            }
        };
        self.warn(format!(
            "the chunk at byte {at} is damaged or cannot be unpacked ({failed}); what came before is used"
        ));
    }

    fn close_chunk(&mut self) {
        let Some(chunk) = self.chunk.take() else { return };
        if chunk.all_read && chunk.crc != 0 && chunk.hasher.finalize() != chunk.crc {
            self.warn(format!("the chunk at byte {} is damaged: its checksum does not match", chunk.start));
        }
    }

    /// Something at byte `at` makes no sense: goes on at the next chunk that does, or ends.
    fn resynchronise(&mut self, at: u64) -> io::Result<()> {
        // Inside a chunk whose frame is sound, go on behind it.
        if let Some(chunk) = self.chunk.take() {
            self.warn(format!("the chunk at byte {} is damaged from byte {at} on", chunk.start));
            self.pos = chunk.end.min(self.len);
            self.file.seek(SeekFrom::Start(self.pos))?;
            return Ok(());
        }
        let mut from = at + 1;
        let mut window = vec![0u8; 1 << 20];
        while from < self.len {
            self.file.seek(SeekFrom::Start(from))?;
            let n = window.len().min((self.len - from) as usize);
            self.file.read_exact(&mut window[..n])?;
            if let Some(i) =
                (0..n.saturating_sub(49)).find(|i| plausible_chunk(&window[*i..n], self.len - from - *i as u64))
            {
                self.pos = from + i as u64;
                self.file.seek(SeekFrom::Start(self.pos))?;
                self.warn(format!("the log is damaged from byte {at} to {}", self.pos));
                return Ok(());
            }
            from += (n.saturating_sub(64)).max(1) as u64;
        }
        self.warn(format!("the log is damaged from byte {at} on"));
        self.ended = true;
        Ok(())
    }

    fn take(&mut self, record: Record<'static>) -> Option<Item> {
        match record {
            Record::Schema { header, .. } => {
                self.schemas.insert(header.id, header.name);
                None
            }
            Record::Channel(record) => {
                let channel = Channel {
                    id: record.id,
                    topic: record.topic,
                    encoding: record.message_encoding,
                    schema: self.schemas.get(&record.schema_id).cloned().unwrap_or_default(),
                    metadata: record.metadata,
                };
                if self.channels.get(&record.id).is_none_or(|known| *known.0 != channel) {
                    let wanted = (self.wanted)(&channel);
                    self.channels.insert(record.id, (Arc::new(channel), wanted));
                }
                None
            }
            Record::Message { header, data } => {
                let channel = self.wanted_channel(header.channel_id)?;
                Some(message(channel, header, data.into_owned()))
            }
            Record::Metadata(record) => Some(Item::Metadata { name: record.name, map: record.metadata }),
            _ => None,
        }
    }
}

fn message(channel: Arc<Channel>, header: MessageHeader, data: Vec<u8>) -> Item {
    Item::Message(Message {
        channel,
        sequence: header.sequence,
        log_ns: header.log_time,
        publish_ns: header.publish_time,
        data,
    })
}

/// Whether a sound chunk record seems to begin here.
fn plausible_chunk(bytes: &[u8], room: u64) -> bool {
    let long =
        |at: usize| bytes.get(at..at + 8).map_or(0, |b| b.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)));
    if bytes[0] != op::CHUNK {
        return false;
    }
    let (len, first, last) = (long(1), long(9), long(17));
    let text = long(37) as u32 as usize;
    len >= 40 && len <= room && first <= last && text <= 16 && {
        let printable = bytes.get(41..41 + text).is_some_and(|name| name.iter().all(u8::is_ascii_graphic));
        printable && long(41 + text).checked_add(40 + text as u64) == Some(len)
    }
}
