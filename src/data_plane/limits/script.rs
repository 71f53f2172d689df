//! Several visits of one script in Redis, in one round trip.

use redis::aio::ConnectionManager;
use redis::{ErrorKind, FromRedisValue, RedisResult, Script, ScriptInvocation, ServerErrorKind};

/// Carries out all of these invocations of `script`; the replies in order.
pub async fn invoke_all<R: FromRedisValue>(
    redis: &ConnectionManager,
    script: &Script,
    invocations: Vec<ScriptInvocation<'_>>,
) -> RedisResult<Vec<R>> {
    let mut redis = redis.clone();
    let mut pipe = redis::pipe();
    for invocation in &invocations {
        pipe.invoke_script(invocation);
    }
    match pipe.query_async(&mut redis).await {
        // A Redis that was restarted. None of them was carried out: they all are the same script.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script.load_async(&mut redis).await?;
            pipe.query_async(&mut redis).await
        }
        replies => replies,
    }
}
