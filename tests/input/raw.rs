//! Requests as bytes, by the description of the protocol.

use crate::support::driver::Driver;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MethodDescriptor,
    prost::bytes::{Buf, BufMut},
};
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

/// Every RPC of the services that are served.
pub fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/protocols.bin")).as_slice())
        .unwrap();
    let served = ["csi.v1.Identity", "csi.v1.Controller", "csi.v1.Node"];
    let services = pool.services().filter(|service| served.contains(&service.full_name()));
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// A client that sends whatever it is given.
pub struct Raw {
    runtime: Runtime,
    channel: Channel,
}

impl Raw {
    pub fn new(driver: &Driver) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::try_from(format!("unix://{}", driver.socket().display())).unwrap();
        let limit = std::time::Duration::from_secs(60);
        let channel = runtime.block_on(endpoint.timeout(limit).connect()).unwrap();
        Self { runtime, channel }
    }

    /// The answer, undecoded.
    pub fn send(&self, method: &MethodDescriptor, request: Vec<u8>) -> Result<Vec<u8>, Status> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let mut grpc = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            grpc.ready().await.unwrap();
            grpc.unary(Request::new(request), path.parse().unwrap(), Bytes).await.map(Response::into_inner)
        })
    }

    pub fn send_message(
        &self,
        method: &MethodDescriptor,
        request: &DynamicMessage,
    ) -> Result<DynamicMessage, Status> {
        use prost_reflect::prost::Message;
        let answer = self.send(method, request.encode_to_vec())?;
        Ok(DynamicMessage::decode(method.output(), answer.as_slice()).unwrap())
    }
}

#[derive(Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length).to_vec()))
    }
}
