//! A CSI client over a unix socket, for `wharf probe` and `wharf demo`.

use super::csi::{
    controller_client::ControllerClient, identity_client::IdentityClient, node_client::NodeClient,
};
use std::{path::Path, time::Duration};
use tokio::time::sleep;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// How often a call that is to be repeated is repeated, and how long is waited in between.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// One connection, three services.
#[derive(Clone, Debug)]
pub struct Client {
    /// Identity.
    pub identity: IdentityClient<Channel>,
    /// Controller.
    pub controller: ControllerClient<Channel>,
    /// Node.
    pub node: NodeClient<Channel>,
}

impl Client {
    /// Connects to a driver's socket. Each call, and connecting, may take as long as `limit`.
    pub async fn connect(socket: &Path, limit: Duration) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))?;
        let channel = endpoint.connect_timeout(limit).timeout(limit).connect().await?;
        Ok(Self {
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        })
    }
}

/// A call that was not answered with OK.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({code:?})")]
pub struct Failure {
    code: Code,
    message: String,
}

impl Failure {
    /// FAILED_PRECONDITION: it can go through after something else was done.
    pub fn is_refusal(&self) -> bool {
        self.code == Code::FailedPrecondition
    }

    /// To an orchestrator these codes say: the same call again.
    fn is_passing(&self) -> bool {
        matches!(self.code, Code::Aborted | Code::Unavailable)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

/// Calls, and repeats the call for some seconds where the answer asks for that, as an orchestrator does.
pub async fn answered<R, F>(mut call: impl FnMut() -> F) -> Result<R, Failure>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match call().await.map_err(Failure::from) {
            Ok(response) => return Ok(response.into_inner()),
            Err(failure) if left > 0 && failure.is_passing() => sleep(PAUSE).await,
            Err(failure) => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[tokio::test]
    async fn what_passes_is_repeated_and_nothing_else() {
        let mut calls = 0;
        let answer = answered(|| {
            calls += 1;
            let answer =
                if calls < 3 { Err(Status::new(Code::Aborted, "later")) } else { Ok(Response::new(7)) };
            async move { answer }
        });
        assert_eq!(answer.await.unwrap(), 7);
        let mut calls = 0;
        let failure = answered::<(), _>(|| {
            calls += 1;
            async move { Err(Status::new(Code::FailedPrecondition, "no")) }
        });
        let failure = failure.await.unwrap_err();
        assert!(failure.is_refusal());
        assert_eq!((calls, failure.to_string().as_str()), (1, "no (FailedPrecondition)"));
    }
}
