//! What the README shows is what works: its calls by grpcurl are done by reflection, as grpcurl does them, and its Rust program
//! is compiled and run, both against a cluster of three processes.

mod support;

#[path = "../examples/quickstart.rs"]
#[allow(dead_code, reason = "its main is for people")]
mod quickstart;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use playhead::proto::v1;
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use support::{Cluster, Result};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const README: &str = include_str!("../README.md");
const QUICKSTART: &str = include_str!("../examples/quickstart.rs");

/// The blocks of code in the README in this language.
fn blocks(language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let after = README.split(begin.as_str()).skip(1);
    after.map(|rest| rest.split("```").next().unwrap_or_default().to_string()).collect()
}

/// One call by grpcurl.
#[derive(Debug, PartialEq)]
struct Shown {
    json: String,
    address: String,
    service: String,
    method: String,
}

/// The words of a line of shell: quotes hold words together, a backslash at a line's end holds lines together.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in command.replace("\\\n", " ").split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_string());
        } else {
            words.extend(part.split_whitespace().map(ToString::to_string));
        }
    }
    words
}

/// Every call by grpcurl in the README.
fn calls() -> Vec<Shown> {
    let shells = blocks("sh").join("\n");
    let commands = shells.split("grpcurl ").skip(1);
    let parse = |command: &str| {
        let words = words(command);
        let json = words.iter().position(|word| word == "-d").map(|at| words[at + 1].clone()).unwrap_or_default();
        let at = words.iter().position(|word| word.contains(".v1.")).expect("a call names a method");
        let (service, method) = words[at].split_once('/').expect("a method is SERVICE/METHOD");
        Shown { json, address: words[at - 1].clone(), service: service.to_string(), method: method.to_string() }
    };
    commands.map(parse).collect()
}

/// One question to the reflection service of a node: files that it names.
async fn files(channel: &Channel, question: MessageRequest) -> Result<Vec<FileDescriptorProto>> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let asked = client.server_reflection_info(tokio_stream::once(request)).await?;
    let answer = asked.into_inner().message().await?.ok_or("reflection gave no answer")?;
    match answer.message_response {
        Some(MessageResponse::FileDescriptorResponse(files)) => {
            let files = files.file_descriptor_proto.iter();
            Ok(files.map(|file| FileDescriptorProto::decode(file.as_slice())).collect::<Result<_, _>>()?)
        }
        other => Err(format!("reflection answers {other:?}").into()),
    }
}

/// What a node says of a service, with all files that it needs.
async fn reflected(channel: &Channel, service: &str) -> Result<DescriptorPool> {
    let mut known = BTreeSet::new();
    let mut set = FileDescriptorSet::default();
    let mut found = files(channel, MessageRequest::FileContainingSymbol(service.to_string())).await?;
    while let Some(file) = found.pop() {
        if known.insert(file.name().to_string()) {
            for needed in file.dependency.iter().filter(|needed| !known.contains(*needed)) {
                found.extend(files(channel, MessageRequest::FileByFilename(needed.clone())).await?);
            }
            set.file.push(file);
        }
    }
    Ok(DescriptorPool::from_file_descriptor_set(set)?)
}

/// Messages that are known only by what reflection says of them.
struct Dynamic {
    answer: MessageDescriptor,
}

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Raw;
    type Decoder = Read;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Read {
        Read(self.answer.clone())
    }
}

struct Raw;

impl Encoder for Raw {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item.encode_to_vec().as_slice());
        Ok(())
    }
}

struct Read(MessageDescriptor);

impl Decoder for Read {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        DynamicMessage::decode(self.0.clone(), bytes).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}

/// The method that is shown, if the node knows it.
fn method(pool: &DescriptorPool, shown: &Shown) -> Option<MethodDescriptor> {
    pool.get_service_by_name(&shown.service)?.methods().find(|method| method.name() == shown.method)
}

/// Does what grpcurl would do. Unknown fields and values of the wrong kind are errors, as there.
async fn call(channel: &Channel, shown: &Shown) -> Result<DynamicMessage> {
    let pool = reflected(channel, &shown.service).await?;
    let method = method(&pool, shown).ok_or_else(|| format!("there is no {}/{}", shown.service, shown.method))?;
    let mut json = serde_json::Deserializer::from_str(&shown.json);
    let request = DynamicMessage::deserialize(method.input(), &mut json)?;
    json.end()?;
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await?;
    let path = format!("/{}/{}", shown.service, shown.method).parse()?;
    let codec = Dynamic { answer: method.output() };
    Ok(client.unary(tonic::Request::new(request), path, codec).await?.into_inner())
}

#[test]
fn the_rust_program_of_the_readme_is_the_example_that_is_compiled() {
    assert_eq!(blocks("rust"), [QUICKSTART], "README.md and examples/quickstart.rs differ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_that_the_readme_shows_succeeds() -> Result<()> {
    let cluster = Cluster::start(3, 8, &[]).await?;
    let (client, admin) = (cluster.local.client_endpoints(), cluster.local.admin_endpoints());
    let calls = calls();
    assert!(calls.len() >= 3, "only {} calls were found in the README", calls.len());
    for (at, shown) in calls.iter().enumerate() {
        let endpoint = match shown.address.as_str() {
            "127.0.0.1:7400" => &client[at % client.len()],
            "127.0.0.1:7402" => &admin[at % admin.len()],
            other => panic!("{other} is no port that the README names"),
        };
        let channel = Channel::from_shared(endpoint.clone())?.connect().await?;
        let answer = call(&channel, shown).await.map_err(|e| format!("{shown:?}: {e}"))?;
        println!("{}/{}: {} bytes", shown.service, shown.method, answer.encoded_len());
    }
    // A field that is not there must be noticed.
    let channel = Channel::from_shared(client[0].clone())?.connect().await?;
    let mistaken =
        Shown { json: calls[0].json.replace("view_id", "session_id"), ..calls.into_iter().next().ok_or("no call")? };
    let told = call(&channel, &mistaken).await.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(told.contains("session_id"), "{told}");

    quickstart::run(client[1].clone()).await.map_err(|e| e.to_string())?;
    let question = v1::GetResumePointRequest {
        account_id: "ann".into(),
        profile_id: "kids".into(),
        title_id: "film-17".into(),
        ..Default::default()
    };
    let answer = cluster.client(Duration::from_secs(10))?.get_resume_point(question).await?;
    assert_eq!(answer.resume_point.and_then(|point| point.position_ms), Some(660_000), "what the program has reported");
    Ok(())
}
