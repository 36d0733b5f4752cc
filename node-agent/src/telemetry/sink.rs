//! Where log lines go: a bounded queue and a thread that writes it to standard output, so that a
//! reader that stalls costs lines and never a worker.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait; at a few hundred bytes each this bounds the memory at some megabytes.
const QUEUE: usize = 8192;

/// The queue's end for the subscriber. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Sink {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Sink {
    /// Starts the thread. It ends when the last clone of the sink is gone.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (sink, receiver) = Self::queue(QUEUE);
        let lost = Arc::clone(&sink.lost);
        std::thread::Builder::new()
            .name("adit-log".to_owned())
            .spawn(move || drain(&receiver, output, &lost))?;
        Ok(sink)
    }

    fn queue(capacity: usize) -> (Self, Receiver<Message>) {
        let (queue, receiver) = sync_channel(capacity);
        let lost = Arc::default();
        (Self { queue, lost }, receiver)
    }

    /// Waits until every line handed over so far is written, but no longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _late = wait.recv_timeout(limit);
        }
    }
}

impl Write for Sink {
    /// One call is one line, as the subscriber makes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Writes until all senders are gone. A failed write is dropped: there is nowhere to report it.
fn drain(queue: &Receiver<Message>, mut output: impl Write, lost: &AtomicU64) {
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    let _failed = output.write_all(&line);
                }
                Message::Flush(done) => {
                    let _failed = output.flush();
                    let _gone = done.try_send(());
                }
            }
            next = queue.try_recv().ok();
        }
        let missed = lost.swap(0, Ordering::Relaxed);
        if missed > 0 {
            let _failed = writeln!(output, "{missed} log lines were lost: output was too slow");
        }
        let _failed = output.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn writes_lines_in_order_and_tells_how_many_found_the_queue_full() {
        let (mut sink, receiver) = Sink::queue(2);
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            sink.write_all(line.as_bytes()).unwrap();
        }
        let lost = Arc::clone(&sink.lost);
        drop(sink);
        let mut output = Vec::new();

        drain(&receiver, &mut output, &lost);

        let text = String::from_utf8(output).unwrap();
        assert_eq!(text, "one\ntwo\n2 log lines were lost: output was too slow\n");
    }

    #[test]
    fn flush_returns_when_everything_is_written() {
        let output = Shared::default();
        let mut sink = Sink::start(output.clone()).unwrap();
        sink.write_all(b"last words\n").unwrap();

        Sink::flush(&sink, Duration::from_secs(10));

        assert_eq!(*output.0.lock().unwrap(), b"last words\n");
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
