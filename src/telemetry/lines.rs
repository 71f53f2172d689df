//! Log lines on their way out: a thread of its own writes them, so that no request waits for whoever reads the log. A
//! reader that stops (a pipe that nobody empties, a disk that hangs) would otherwise stop every request at its line.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait. Beyond that they are dropped, and counted as are those that cannot be written: a second's worth
/// of a busy server.
const WAITING: usize = 8_192;
/// Lines are put together into writes of about this many bytes.
const BATCH: usize = 64 << 10;
/// How long lines are gathered before the next write. Otherwise each line of a busy server wakes this thread, a system call
/// and a change of context a request.
const GATHER: Duration = Duration::from_millis(5);
/// How long the end of the process waits for the last lines.
const GOODBYE: Duration = Duration::from_secs(1);

enum Parcel {
    Line(Box<[u8]>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

static PROCESS: Mutex<Option<Lines>> = Mutex::new(None);

/// Where lines are put. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines(SyncSender<Parcel>);

impl std::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parcel")
    }
}

impl Lines {
    /// Starts the thread that writes to `out`. A line that cannot be written is lost and counted: nothing here may fail a
    /// request.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        let (send, receive) = sync_channel(WAITING);
        // Without the thread every line is dropped, and counted.
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(out, &receive)).ok();
        Self(send)
    }

    /// The process's log, which [`flush`] waits for.
    pub fn of_the_process(self) -> Self {
        *PROCESS.lock() = Some(self.clone());
        self
    }

    /// Waits until what was put here so far is written, but not for ever.
    fn written(&self) {
        let (send, written) = sync_channel(1);
        // A full queue means that nobody reads: then there is nothing to wait for.
        if self.0.try_send(Parcel::Flush(send)).is_ok() {
            written.recv_timeout(GOODBYE).ok();
        }
    }
}

/// Waits a moment for the process's last lines to be written.
pub fn flush() {
    let lines = PROCESS.lock().clone();
    if let Some(lines) = lines {
        lines.written();
    }
}

fn write_all(mut out: impl Write, parcels: &Receiver<Parcel>) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Ok(first) = parcels.recv() {
        let mut asked = Vec::new();
        let mut lines = 0;
        let mut next = Some(first);
        while let Some(parcel) = next.take() {
            match parcel {
                Parcel::Line(line) => {
                    batch.extend_from_slice(&line);
                    lines += 1;
                }
                Parcel::Flush(done) => asked.push(done),
            }
            if batch.len() < BATCH {
                next = parcels.try_recv().ok();
            }
        }
        if out.write_all(&batch).and_then(|()| out.flush()).is_err() {
            // Of a batch that failed half-way some lines may have arrived: rather counted too often than not at all.
            dropped(lines);
        }
        batch.clear();
        if asked.is_empty() {
            std::thread::sleep(GATHER);
        }
        for done in asked {
            done.try_send(()).ok();
        }
    }
}

fn dropped(lines: u64) {
    metrics::counter!("log_lines_dropped_total").increment(lines);
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Each event is written in one piece, line break included.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.try_send(Parcel::Line(line.into())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                dropped(1);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_arrive_in_order_and_all_before_a_flush() {
        let out = Shared::default();
        let mut lines = Lines::to(out.clone());
        let wanted: String = (0..1_000).map(|number| format!("line {number}\n")).collect();
        for line in wanted.split_inclusive('\n') {
            lines.write_all(line.as_bytes()).unwrap();
        }
        lines.written();
        assert_eq!(String::from_utf8(out.0.lock().clone()).unwrap(), wanted);
    }

    /// Should fail: `.ok()` in place of the count.
    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let (send, receive) = sync_channel(WAITING);
            for _ in 0..3 {
                send.send(Parcel::Line(Box::from(&b"a line\n"[..]))).unwrap();
            }
            drop(send);
            write_all(Full, &receive);
        });
        let numbers = recorder.handle().render();
        assert!(numbers.contains("log_lines_dropped_total 3"), "{numbers}");
    }

    /// Whoever writes is not held up by a reader that has stopped, and the end of the process neither.
    #[test]
    fn a_reader_that_stops_holds_nobody_up() {
        let out = Shared::default();
        let stopped = out.0.clone();
        let held = stopped.lock();
        let mut lines = Lines::to(out);
        for _ in 0..WAITING * 2 {
            lines.write_all(b"a line\n").unwrap();
        }
        drop(held);
    }
}
