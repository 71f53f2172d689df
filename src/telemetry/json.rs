//! Log lines as JSON: the event's fields at the top, the span it happened in beside them.
//!
//! `tracing_subscriber::fmt` can do the same. It keeps a span's fields as text, reads that text again for every line,
//! and writes it anew when a field is added; with one line a request that was the most expensive thing a request did
//! here. This keeps each field as it will be written.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::kernel::rfc3339;

/// Writes a line for each event.
pub struct JsonLines<W>(pub W);

/// A span's fields: name and value, the value as JSON.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

thread_local! {
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        LINE.with(|line| {
            // A value whose Debug logs something itself gets a line of its own.
            let mut own = String::new();
            let mut kept = line.try_borrow_mut();
            let line = kept.as_deref_mut().unwrap_or(&mut own);
            line.clear();
            self.render(line, event, &context);
            // Where the log cannot be written, there is nowhere to say so.
            drop(self.0.make_writer_for(event.metadata()).write_all(line.as_bytes()));
        });
    }
}

impl<W> JsonLines<W> {
    fn render<S>(&self, line: &mut String, event: &Event<'_>, context: &Context<'_, S>)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let about = event.metadata();
        line.push_str("{\"timestamp\":\"");
        rfc3339::spell(SystemTime::now().into(), |text| line.push_str(text));
        line.push_str("\",\"level\":\"");
        line.push_str(about.level().as_str());
        line.push('"');
        event.record(&mut Top(line));
        line.push_str(",\"target\":");
        quote(line, about.target());
        if let Some(span) = context.event_span(event) {
            line.push_str(",\"span\":{");
            if let Some(fields) = span.extensions().get::<Fields>() {
                for (name, value) in &fields.0 {
                    quote(line, name);
                    line.push(':');
                    line.push_str(value);
                    line.push(',');
                }
            }
            line.push_str("\"name\":");
            quote(line, span.name());
            line.push('}');
        }
        line.push_str("}\n");
    }
}

/// An event's fields, straight into the line.
struct Top<'a>(&'a mut String);

impl Top<'_> {
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut String)) {
        self.0.push(',');
        quote(self.0, field.name());
        self.0.push(':');
        value(self.0);
    }
}

impl Fields {
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut String)) {
        let mut text = String::new();
        value(&mut text);
        match self.0.iter_mut().find(|(name, _)| *name == field.name()) {
            Some((_, old)) => *old = text,
            None => self.0.push((field.name(), text)),
        }
    }
}

macro_rules! visits {
    ($($visitor:ty),+) => {$(
        impl Visit for $visitor {
            fn record_str(&mut self, field: &Field, value: &str) {
                self.field(field, |out| quote(out, value));
            }
            fn record_i64(&mut self, field: &Field, value: i64) {
                self.field(field, |out| plain(out, value));
            }
            fn record_u64(&mut self, field: &Field, value: u64) {
                self.field(field, |out| plain(out, value));
            }
            fn record_bool(&mut self, field: &Field, value: bool) {
                self.field(field, |out| plain(out, value));
            }
            fn record_f64(&mut self, field: &Field, value: f64) {
                // JSON knows no infinity.
                self.field(field, |out| match serde_json::Number::from_f64(value) {
                    Some(number) => plain(out, number),
                    None => out.push_str("null"),
                });
            }
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.field(field, |out| {
                    out.push('"');
                    // Writing to a string cannot fail; a Debug that does has said what it could.
                    let _ = write!(Escaped(out), "{value:?}");
                    out.push('"');
                });
            }
        }
    )+};
}
visits!(Top<'_>, Fields);

fn plain(out: &mut String, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}");
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    escape(out, text);
    out.push('"');
}

/// Escapes what is written through it.
struct Escaped<'a>(&'a mut String);

impl std::fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

fn escape(out: &mut String, text: &str) {
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        match short {
            "" => plain(out, format_args!("\\u{byte:04x}")),
            short => out.push_str(short),
        }
    }
    out.push_str(&text[plain_from..]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_kind_of_value_is_what_it_is_and_nothing_breaks_out_of_its_quotes() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::registry().with(JsonLines(move || writer.clone()));
        let odd = "a \"b\"\\ \n\r\t \u{1} ä 🦀";
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(
                number = 1.5,
                none = f64::NAN,
                yes = true,
                minus = -3,
                big = u64::MAX,
                odd,
                "free"
            );
            let span = tracing::info_span!("outer", odd, later = tracing::field::Empty);
            let _inside = span.enter();
            span.record("later", 1);
            span.record("later", tracing::field::debug(Some(odd)));
            let error = std::io::Error::other(odd);
            tracing::warn!(target: "else where", error = &error as &dyn std::error::Error, shown = %odd, "in {odd}");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            let at = line.as_object_mut().unwrap().remove("timestamp").unwrap();
            assert!(chrono::DateTime::parse_from_rfc3339(at.as_str().unwrap()).is_ok(), "{at}");
        }
        assert_eq!(
            lines,
            [
                json!({
                    "level": "INFO", "message": "free", "number": 1.5, "none": null, "yes": true, "minus": -3,
                    "big": u64::MAX, "odd": odd, "target": "freehold::telemetry::json::tests",
                }),
                json!({
                    "level": "WARN", "message": format!("in {odd}"), "error": odd, "shown": odd, "target": "else where",
                    "span": { "name": "outer", "odd": odd, "later": format!("{:?}", Some(odd)) },
                }),
            ]
        );
    }
}
