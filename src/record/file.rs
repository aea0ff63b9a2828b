//! One MCAP file being written: channels made on demand, small uncompressed chunks, a sync about once a second, and a
//! length up to which the file is known to be whole. Messages flow in; bytes go to the disk in order, never rewritten,
//! so a file cut anywhere is readable up to the cut.

use super::proto;
use super::views;
use crate::types::{SourceId, Stamp};
use mcap::records::{MessageHeader, Metadata};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A chunk is closed before it would grow beyond this.
const CHUNK_BYTES: usize = 64 * 1024;

/// Counts what goes through to the file.
struct Counted {
    file: BufWriter<File>,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Current(0) => Ok(self.written),
            other => self.file.seek(other),
        }
    }
}

/// An MCAP file that is being written.
pub struct LogFile {
    mcap: mcap::Writer<Counted>,
    disk: File,
    path: PathBuf,
    channels: BTreeMap<String, u16>,
    chunk_bytes: usize,
    /// Everything up to here is on its way to the disk and ends with a whole record.
    whole_bytes: u64,
    total_bytes: u64,
}

impl LogFile {
    /// Begins a file; one of that name is replaced.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub fn create(path: &Path) -> io::Result<LogFile> {
        let disk = File::create(path)?;
        let sink = Counted { file: BufWriter::with_capacity(CHUNK_BYTES, disk.try_clone()?), written: 0 };
        let mcap = mcap::WriteOptions::new()
            .profile("sage")
            .library(concat!("sage ", env!("CARGO_PKG_VERSION")))
            .compression(None)
            .chunk_size(None)
            .disable_seeking(true)
            .create(sink)
            .map_err(io::Error::other)?;
        Ok(LogFile {
            mcap,
            disk,
            path: path.to_owned(),
            channels: BTreeMap::new(),
            chunk_bytes: 0,
            whole_bytes: 0,
            total_bytes: 0,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of messages so far.
    pub fn bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The channel of a topic, made when first used. A source's channel carries its index and how its stamps are known.
    fn channel(&mut self, topic: &str, schema: &str, source: Option<(SourceId, Stamp)>) -> io::Result<u16> {
        let key = match source {
            Some((_, Stamp::Device)) => format!("{topic} device"),
            _ => topic.to_owned(),
        };
        if let Some(id) = self.channels.get(&key) {
            return Ok(*id);
        }
        let view = views::VIEWS.iter().find(|view| view.1 == schema);
        let (schema_encoding, encoding, data) = match view {
            Some(view) => ("jsonschema", "json", views::json_schema(view).into_bytes()),
            None => ("protobuf", "protobuf", proto::descriptor_set(schema)),
        };
        let mut metadata = BTreeMap::new();
        if let Some((id, stamp)) = source {
            metadata.insert("source".to_owned(), id.0.to_string());
            let stamp = if stamp == Stamp::Device { "device" } else { "arrival" };
            metadata.insert("stamp".to_owned(), stamp.to_owned());
        }
        let schema_id = self.mcap.add_schema(schema, schema_encoding, &data).map_err(io::Error::other)?;
        let id = self.mcap.add_channel(schema_id, topic, encoding, &metadata).map_err(io::Error::other)?;
        self.channels.insert(key, id);
        self.chunk_bytes += data.len() + 2 * topic.len() + 200; // the two records lie in the chunk too
        Ok(id)
    }

    /// Appends one message.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn message(
        &mut self,
        topic: &str,
        schema: &str,
        source: Option<(SourceId, Stamp)>,
        times: Times,
        data: &[u8],
    ) -> io::Result<()> {
        if self.chunk_bytes > 0 && self.chunk_bytes + data.len() > CHUNK_BYTES {
            self.flush()?;
        }
        let channel_id = self.channel(topic, schema, source)?;
        let header = MessageHeader {
            channel_id,
            sequence: times.sequence,
            log_time: times.log_ns,
            publish_time: times.publish_ns,
        };
        self.mcap.write_to_known_channel(&header, data).map_err(io::Error::other)?;
        self.chunk_bytes += data.len() + 31;
        self.total_bytes += data.len() as u64 + 31;
        Ok(())
    }

    /// Appends a metadata record.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn metadata(&mut self, name: &str, metadata: BTreeMap<String, String>) -> io::Result<()> {
        self.mcap.write_metadata(&Metadata { name: name.to_owned(), metadata }).map_err(io::Error::other)?;
        self.flush()
    }

    /// Ends the chunk and hands it to the operating system.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.mcap.flush().map_err(io::Error::other)?;
        self.chunk_bytes = 0;
        self.whole_bytes = self.disk.stream_position()?;
        Ok(())
    }

    /// Ends the chunk and waits until it is on the disk.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.disk.sync_data()
    }

    /// Bytes that an ordinary user may still write on this disk.
    pub fn free_bytes(&self) -> Option<u64> {
        // SAFETY: an all-zero statvfs is a valid value for the call below to overwrite.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open as long as `self.disk` lives and `stat` is a valid place to write to.
        let answer = unsafe { libc::fstatvfs(self.disk.as_raw_fd(), &mut stat) };
        (answer == 0).then(|| stat.f_bavail as u64 * stat.f_frsize as u64)
    }

    /// Writes summary and index and waits for the disk.
    ///
    /// # Errors
    /// When the disk refuses it; the file is then whole up to the last flush.
    pub fn close(mut self) -> io::Result<u64> {
        self.flush()?;
        self.mcap.finish().map_err(io::Error::other)?;
        self.disk.sync_all()?;
        self.disk.metadata().map(|metadata| metadata.len())
    }

    /// After a failed write: cuts the file back to its last whole record.
    pub fn abandon(self) {
        let LogFile { mcap, disk, whole_bytes, .. } = self;
        // Takes the writer apart without its summary; what its buffer still holds may reach the file and is cut off.
        drop(mcap.into_inner());
        let _ = disk.set_len(whole_bytes);
        let _ = disk.sync_data();
    }
}

/// The numbers of a message's header.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Recording instant, Unix.
    pub log_ns: u64,
    /// Capture, Unix.
    pub publish_ns: u64,
    /// Sequence number.
    pub sequence: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::reader::{Item, LogReader};

    fn put(file: &mut LogFile, n: u32) {
        let times = Times { log_ns: u64::from(n), publish_ns: u64::from(n), sequence: n };
        file.message("/decision", "sage.Decision", None, times, &[b'x'; 1_000]).unwrap();
    }

    #[test]
    fn a_file_given_up_is_whole_up_to_the_last_flush() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.mcap");
        let mut file = LogFile::create(&path).unwrap();
        (0..30).for_each(|n| put(&mut file, n));
        file.flush().unwrap();
        (30..200).for_each(|n| put(&mut file, n)); // over chunk borders, the last chunk open
        let whole = file.whole_bytes;
        file.abandon();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), whole);
        let mut reader = LogReader::open(&path).unwrap();
        let mut read = 0;
        while let Some(item) = reader.next_item() {
            read += u32::from(matches!(item, Item::Message(message) if message.sequence == read));
        }
        assert!((30..200).contains(&read), "{read}");
        assert_eq!(reader.warnings().len(), 1, "only that it has no end: {:?}", reader.warnings());
    }
}
