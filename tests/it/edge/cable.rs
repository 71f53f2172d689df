//! A cable to a server that a test may pull or squeeze.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the cable does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Whole,
    /// Connections are refused, open ones end.
    Pulled,
    /// Connections are accepted and nothing ever arrives; open ones go silent.
    Hung,
}

/// A TCP relay on a port of its own.
pub struct Cable {
    pub port: u16,
    state: watch::Sender<State>,
}

impl Cable {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, seen) = watch::channel(State::Whole);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(relay(near, target, seen.clone()));
            }
        });
        Self { port, state }
    }

    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn relay(mut near: TcpStream, target: SocketAddr, mut seen: watch::Receiver<State>) {
    // Opened before the cable went bad or not: both ends see the same.
    let mut far = None;
    loop {
        let state = *seen.borrow_and_update();
        match state {
            State::Pulled => return,
            State::Hung => {
                if seen.changed().await.is_err() {
                    return;
                }
            }
            State::Whole => {
                if far.is_none() {
                    far = TcpStream::connect(target).await.ok();
                }
                let Some(far) = &mut far else { return };
                tokio::select! {
                    _ = copy_bidirectional(&mut near, far) => return,
                    changed = seen.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}
