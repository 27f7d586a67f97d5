//! A daemon of the existing stack, as its callers see it: the `ttrpc` crate's server on a Unix socket, with the
//! methods that such a daemon has and no gRPC. What it is asked it asks one of our daemons, byte for byte.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::runtime::Runtime;
use ttrpc::asynchronous::{Client, MethodHandler, Server, Service, TtrpcContext};
use ttrpc::proto::{Code, Request, Response, Status};

use crate::stack::address;

/// Methods of one service.
#[derive(Debug, Clone, Copy)]
pub struct Methods {
    /// Full name of the service.
    pub service: &'static str,
    /// Methods that work.
    pub served: &'static [&'static str],
    /// Methods that are in the interface but not implemented: `NOT_FOUND`, as generated servers say it.
    pub lacking: &'static [&'static str],
}

/// The running stand-in. Dropping it ends it and its connections; the socket's file stays, as after a crash.
#[derive(Debug)]
pub struct TtrpcPeer {
    _runtime: Runtime,
    calls: Calls,
}

type Calls = Arc<Mutex<Vec<String>>>;

impl TtrpcPeer {
    /// Serves `services` on `socket` by asking the daemon at `behind`.
    ///
    /// # Errors
    /// The socket cannot be bound, or nobody answers at `behind`.
    pub fn start(socket: &Path, behind: &Path, services: &[Methods]) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let calls = Calls::default();
        let serve = async {
            let client =
                Client::connect(&address(behind)).await.context("connecting to the daemon behind")?;
            let mut server = Server::new().bind(&address(socket)).context("binding the stand-in's socket")?;
            for methods in services {
                let service = methods.build(&client, &calls);
                server = server.register_service(HashMap::from([(methods.service.to_owned(), service)]));
            }
            server.start().await.context("starting the stand-in")?;
            // Its listener lives in a task of the runtime and ends with that.
            std::mem::forget(server);
            anyhow::Ok(())
        };
        runtime.block_on(serve)?;
        Ok(Self { _runtime: runtime, calls })
    }

    /// Names of the methods that were called, in order.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Methods {
    fn build(&self, client: &Client, calls: &Calls) -> Service {
        let handler = |served: bool| {
            let (client, calls) = (client.clone(), Arc::clone(calls));
            Box::new(Handler { client, calls, served }) as Box<dyn MethodHandler + Send + Sync>
        };
        let served = self.served.iter().map(|name| ((*name).to_owned(), handler(true)));
        let lacking = self.lacking.iter().map(|name| ((*name).to_owned(), handler(false)));
        Service { methods: served.chain(lacking).collect(), streams: HashMap::new() }
    }
}

struct Handler {
    client: Client,
    calls: Calls,
    served: bool,
}

impl Handler {
    async fn answer(&self, request: Request) -> Response {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(request.method.clone());
        if !self.served {
            let text = format!("/{}/{} is not supported", request.service, request.method);
            return failure(Code::NOT_FOUND, text);
        }
        match self.client.request(request).await {
            Ok(response) => response,
            Err(ttrpc::Error::RpcStatus(status)) => {
                let mut response = Response::new();
                response.set_status(status);
                response
            }
            Err(e) => failure(Code::UNKNOWN, e.to_string()),
        }
    }
}

fn failure(code: Code, message: String) -> Response {
    let mut status = Status::new();
    status.set_code(code);
    status.set_message(message);
    let mut response = Response::new();
    response.set_status(status);
    response
}

impl MethodHandler for Handler {
    // What `async_trait` makes of an `async fn`.
    fn handler<'this, 'future>(
        &'this self,
        _: TtrpcContext,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = ttrpc::Result<Response>> + Send + 'future>>
    where
        'this: 'future,
        Self: 'future,
    {
        Box::pin(async { Ok(self.answer(request).await) })
    }
}
