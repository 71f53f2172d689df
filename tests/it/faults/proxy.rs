//! The fault proxy does what its modes say: what is proven with it is worth no more than it is.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use freehold::testkit::{Cluster, Mode, Proxy, World, WorldOptions, eventually};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::provisioning::TABLES;

const SOON: Duration = Duration::from_secs(5);
/// Long enough that something would have come if it could.
const SILENCE: Duration = Duration::from_millis(200);

/// A server that says what it hears, and the proxy before it.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::to(listener.local_addr().unwrap()).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
                to.shutdown().await.ok();
            });
        }
    });
    proxy
}

async fn client(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn say(stream: &mut TcpStream, words: &str) -> std::io::Result<String> {
    stream.write_all(words.as_bytes()).await?;
    hear(stream, words.len()).await
}

async fn hear(stream: &mut TcpStream, length: usize) -> std::io::Result<String> {
    let mut heard = vec![0; length];
    timeout(SOON, stream.read_exact(&mut heard)).await.expect("an answer or an end")?;
    Ok(String::from_utf8(heard).unwrap())
}

#[tokio::test]
async fn pass_carries_everything_and_counts_it() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    let long = "freehold ".repeat(100_000);
    let (mut from, mut to) = stream.split();
    let mut heard = String::new();
    let (sent, read) = tokio::join!(
        async {
            to.write_all(long.as_bytes()).await?;
            to.shutdown().await
        },
        from.read_to_string(&mut heard)
    );
    sent.and(read).unwrap();
    assert_eq!(heard.len(), long.len());
    assert!(heard == long, "in another order");
    let counts = proxy.counts();
    assert_eq!((counts.accepted, counts.in_fault, counts.cut), (1, 0, 0));
    assert_eq!((counts.to_server, counts.to_client), (long.len() as u64, long.len() as u64));
}

#[tokio::test]
async fn latency_delays_each_way_and_keeps_the_order() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    let delay = Duration::from_millis(60);
    proxy.set(Mode::Latency(delay));
    let begun = Instant::now();
    for number in 0..50 {
        stream.write_all(format!("{number:04}").as_bytes()).await.unwrap();
    }
    let heard = hear(&mut stream, 200).await.unwrap();
    assert_eq!(heard, (0..50).map(|n| format!("{n:04}")).collect::<String>());
    let took = begun.elapsed();
    assert!(took >= delay * 2 && took < delay * 10, "pieces wait side by side, not in turn: {took:?}");
    proxy.set(Mode::Pass);
    assert_eq!(say(&mut stream, "quick").await.unwrap(), "quick");
}

#[tokio::test]
async fn refuse_is_a_port_where_nobody_listens_and_it_stays_ours() {
    let proxy = echo().await;
    let mut open = client(&proxy).await;
    assert_eq!(say(&mut open, "hello").await.unwrap(), "hello");
    for _ in 0..3 {
        proxy.set(Mode::Refuse);
        eventually(SOON, "connections are refused", async || {
            match TcpStream::connect(("127.0.0.1", proxy.port())).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        // At once, without a moment at which it still refuses.
        proxy.set(Mode::Pass);
        assert_eq!(say(&mut client(&proxy).await, "again").await.unwrap(), "again");
    }
    assert!(say(&mut open, "still there?").await.is_err());
    assert!(proxy.counts().cut >= 1);
}

#[tokio::test]
async fn a_black_hole_takes_everything_and_gives_nothing_until_it_ends() {
    let proxy = echo().await;
    let mut open = client(&proxy).await;
    assert_eq!(say(&mut open, "hello").await.unwrap(), "hello");
    proxy.set(Mode::Blackhole);
    let mut new = client(&proxy).await;
    for stream in [&mut open, &mut new] {
        stream.write_all(b"anyone?").await.unwrap();
        let mut byte = [0];
        assert!(timeout(SILENCE, stream.read(&mut byte)).await.is_err(), "something came");
    }
    let counts = proxy.counts();
    assert_eq!((counts.accepted, counts.in_fault, counts.to_server, counts.silenced), (2, 1, 5, 1));
    proxy.set(Mode::Pass);
    for stream in [&mut open, &mut new] {
        assert_eq!(hear(stream, 7).await.unwrap(), "anyone?");
    }
}

#[tokio::test]
async fn reset_resets_what_is_open_and_what_comes() {
    let proxy = echo().await;
    let mut open = client(&proxy).await;
    assert_eq!(say(&mut open, "hello").await.unwrap(), "hello");
    proxy.set(Mode::Reset);
    let mut byte = [0];
    let ended = timeout(SOON, open.read(&mut byte)).await.expect("an end").unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    let since = Instant::now();
    for _ in 0..3 {
        let ended = say(&mut client(&proxy).await, "hello").await.unwrap_err();
        assert!(matches!(ended.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{ended}");
    }
    assert_eq!((proxy.counts().in_fault, proxy.counts().cut), (3, 4));
    assert_eq!(proxy.most_attempts_within(Duration::from_secs(60), since), 3);
    proxy.set(Mode::Pass);
    assert_eq!(say(&mut client(&proxy).await, "again").await.unwrap(), "again");
}

#[tokio::test]
async fn half_open_delivers_and_loses_the_answer() {
    let proxy = echo().await;
    let silent = Duration::from_millis(100);
    for (mode, quiet) in
        [(Mode::ANSWERS_LOST, Duration::ZERO), (Mode::HalfOpen { after: None, silent }, silent)]
    {
        proxy.set(Mode::Pass);
        let mut stream = client(&proxy).await;
        assert_eq!(say(&mut stream, "hello").await.unwrap(), "hello");
        let before = proxy.counts();
        proxy.set(mode);
        let said = Instant::now();
        let ended = say(&mut stream, "commit").await.unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
        assert!(said.elapsed() >= quiet, "{:?}", said.elapsed());
        let seen = proxy.counts() - before;
        assert_eq!((seen.to_server, seen.to_client, seen.answers_lost), (6, 0, 1));
    }
}

/// The transaction is there, and its client heard nothing; the statements before it were answered.
#[tokio::test]
async fn the_answer_to_a_commit_alone_can_be_lost() {
    let world = World::with(WorldOptions { shards: 0, tenant_cap: 1, slots: 0, tables: &TABLES }).await;
    let proxy = Proxy::to_port(Cluster::shared().await.server(0).port()).await;
    let mut direct = PgConnection::connect(&world.control_url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE lost (id int)").execute(&mut direct).await.unwrap();
    let through: PgConnectOptions = proxy.url(&world.control_url).parse().unwrap();
    proxy.set(Mode::COMMITS_LOST);
    let mut conn = PgConnection::connect_with(&through).await.expect("logging in is no COMMIT");
    let mut tx = conn.begin().await.unwrap();
    let made = sqlx::query("INSERT INTO lost VALUES (1)").execute(&mut *tx).await.unwrap();
    assert_eq!(made.rows_affected(), 1);
    let error = tx.commit().await.expect_err("nobody heard");
    assert!(matches!(error, sqlx::Error::Io(_)), "{error}");
    assert_eq!(proxy.counts().answers_lost, 1);
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM lost").fetch_one(&mut direct).await.unwrap();
    assert_eq!(there, 1);
}

#[tokio::test]
async fn a_drip_is_so_many_bytes_at_a_time() {
    let proxy = echo().await;
    let mut stream = client(&proxy).await;
    proxy.set(Mode::Drip { bytes: 2, every: Duration::from_millis(10) });
    let begun = Instant::now();
    assert_eq!(say(&mut stream, "twenty bytes of text").await.unwrap(), "twenty bytes of text");
    // Ten drops there and ten back; the last drops of one way overlap with the first of the other.
    assert!(begun.elapsed() >= Duration::from_millis(90), "{:?}", begun.elapsed());
    proxy.set(Mode::Pass);
    assert_eq!(say(&mut stream, "all at once").await.unwrap(), "all at once");
}

#[tokio::test]
async fn flapping_is_down_and_up_until_it_is_set_anew() {
    let proxy = echo().await;
    let part = Duration::from_millis(40);
    proxy.set(Mode::Flap { up: part, down: part });
    let (mut served, mut cut) = (0, 0);
    eventually(SOON, "both are seen", async || {
        let answer = match TcpStream::connect(("127.0.0.1", proxy.port())).await {
            Ok(mut stream) => say(&mut stream, "up?").await,
            Err(error) => Err(error),
        };
        if answer.is_ok() {
            served += 1
        } else {
            cut += 1
        };
        if served > 5 && cut > 5 { Ok(()) } else { Err(format!("{served} served, {cut} cut")) }
    })
    .await;
    proxy.set(Mode::Pass);
    let mut stream = client(&proxy).await;
    for _ in 0..20 {
        assert_eq!(say(&mut stream, "steady").await.unwrap(), "steady");
        tokio::time::sleep(part / 5).await;
    }
}
