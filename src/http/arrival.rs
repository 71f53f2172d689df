//! Whether a request's body has fully arrived: when time runs out, that decides whose fault it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;

use axum::body::{Body, HttpBody};
use futures_util::{StreamExt, stream};

/// Shared between the body and whoever has to judge.
#[derive(Clone, Debug)]
pub struct Arrival(Arc<AtomicBool>);

impl Arrival {
    pub fn complete(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// The same body, watched.
pub fn watch(body: Body) -> (Body, Arrival) {
    let arrival = Arrival(Arc::new(AtomicBool::new(body.is_end_stream())));
    if arrival.complete() {
        return (body, arrival);
    }
    let mut chunks = body.into_data_stream();
    let seen = arrival.clone();
    let watched = stream::poll_fn(move |context| {
        let next = chunks.poll_next_unpin(context);
        if matches!(next, Poll::Ready(None)) {
            seen.0.store(true, Relaxed);
        }
        next
    });
    (Body::from_stream(watched), arrival)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_has_arrived_at_its_end_and_not_before() {
        let (_, none) = watch(Body::empty());
        assert!(none.complete());
        let chunks = stream::iter(["a", "b"]).map(Ok::<_, std::convert::Infallible>);
        let (body, arrival) = watch(Body::from_stream(chunks));
        let mut data = body.into_data_stream();
        assert_eq!(data.next().await.unwrap().unwrap(), "a");
        assert_eq!(data.next().await.unwrap().unwrap(), "b");
        assert!(!arrival.complete());
        assert!(data.next().await.is_none());
        assert!(arrival.complete());
    }
}
