//! The network between machines: streams of bytes that are late, stuck, or cut.
//!
//! A connection behaves as TCP does: bytes arrive in order or not at all. A segment that is lost comes later; what is sent into a
//! cut stays underway until the cut is mended or the connection given up; a process that dies resets its connections, a machine
//! without power says nothing until it is back. Everything happens in whole milliseconds of virtual time, in an order that
//! follows from the seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use playhead::net::{Accept, Wire, Wires};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};

/// A machine's number: the last part of its address.
pub(crate) type Machine = u8;

/// Bytes under way in one direction of a connection, before its writer waits.
const WINDOW_BYTES: usize = 256 << 10;
/// When a segment that was lost is sent again, milliseconds.
const RESEND_MS: u64 = 200;
/// When a call to nobody is tried again, milliseconds.
const DIAL_AGAIN_MS: u64 = 1000;

/// How the network is now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Milliseconds that a segment takes: from, to.
    pub(crate) delay_ms: (u64, u64),
    /// How many segments of a thousand are lost, and come later.
    pub(crate) lost_permille: u64,
}

impl Weather {
    /// All is well.
    pub(crate) const FAIR: Self = Self { delay_ms: (1, 2), lost_permille: 0 };
}

/// The network. Clones are the same.
#[derive(Clone)]
pub(crate) struct Fabric(Arc<Mutex<Inner>>);

/// What the network has done, to show that a fault had an effect and that two runs are the same.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) segments: u64,
    pub(crate) digest: u64,
    pub(crate) lost: u64,
    /// Segments that were held up by a cut.
    pub(crate) stuck: u64,
    /// Of those, by a cut in one direction only.
    pub(crate) stuck_one_way: u64,
    /// Segments that took more than 20 ms though nothing was lost.
    pub(crate) late: u64,
}

struct Inner {
    now: u64,
    rng: StdRng,
    weather: Weather,
    cut: BTreeSet<(Machine, Machine)>,
    silent: BTreeSet<Machine>,
    listeners: BTreeMap<(Machine, u16), mpsc::UnboundedSender<Box<dyn Wire>>>,
    calls: Vec<Call>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    counts: Counts,
}

struct Call {
    from: Machine,
    to: (Machine, u16),
    due: u64,
    answer: oneshot::Sender<io::Result<Box<dyn Wire>>>,
}

type Ends = (Box<dyn Wire>, mpsc::UnboundedSender<Box<dyn Wire>>, Box<dyn Wire>);

/// A call that is answered.
struct Taken {
    answer: oneshot::Sender<io::Result<Box<dyn Wire>>>,
    ends: Option<Ends>,
}

enum Segment {
    Data(Bytes),
    End,
}

#[derive(Default)]
struct Way {
    /// Under way, with the moment at which each arrives.
    flying: VecDeque<(u64, Segment)>,
    flying_bytes: usize,
    arrived: VecDeque<Bytes>,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    was_stuck: bool,
}

struct Connection {
    ends: [Machine; 2],
    /// `ways[n]` leads away from `ends[n]`.
    ways: [Way; 2],
    open: [bool; 2],
    /// The end that is gone without a word, and from when on the other may hear of it.
    gone: [bool; 2],
    reset_at: Option<u64>,
    reset: bool,
}

impl Way {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Inner {
    fn is_cut(&self, from: Machine, to: Machine) -> bool {
        self.cut.contains(&(from, to)) || self.silent.contains(&from) || self.silent.contains(&to)
    }

    fn delay(&mut self) -> u64 {
        let (from, to) = self.weather.delay_ms;
        let delay = self.rng.random_range(from..=to);
        if delay > 20 {
            self.counts.late += 1;
        }
        delay
    }

    fn loss(&mut self) -> u64 {
        let mut late = 0;
        while late < RESEND_MS * 8 && self.rng.random_range(0..1000) < self.weather.lost_permille {
            late = RESEND_MS + 2 * late;
            self.counts.lost += 1;
        }
        late
    }

    fn send(&mut self, id: u64, side: usize, segment: Segment) {
        let due = self.now + self.delay() + self.loss();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let way = &mut connection.ways[side];
        let due = way.flying.back().map_or(due, |(last, _)| due.max(*last));
        if let Segment::Data(bytes) = &segment {
            way.flying_bytes += bytes.len();
        }
        way.flying.push_back((due, segment));
    }

    fn connect(&mut self, fabric: &Fabric, from: Machine, to: Machine) -> (Box<dyn Wire>, Box<dyn Wire>) {
        let id = self.next;
        self.next += 1;
        let connection = Connection {
            ends: [from, to],
            ways: [Way::default(), Way::default()],
            open: [true; 2],
            gone: [false; 2],
            reset_at: None,
            reset: false,
        };
        self.connections.insert(id, connection);
        let end = |side| Box::new(End { fabric: fabric.clone(), id, side }) as Box<dyn Wire>;
        (end(0), end(1))
    }

    /// Calls that have come to their end: to be answered without the lock, as whoever drops a connection takes it.
    fn take_calls(&mut self, fabric: &Fabric) -> Vec<Taken> {
        let mut taken = Vec::new();
        for mut call in std::mem::take(&mut self.calls) {
            if call.answer.is_closed() {
                continue;
            }
            let (from, (to, port)) = (call.from, call.to);
            if call.due > self.now {
                self.calls.push(call);
            } else if self.is_cut(from, to) || self.is_cut(to, from) {
                call.due = self.now + DIAL_AGAIN_MS;
                self.calls.push(call);
            } else if let Some(listener) = self.listeners.get(&(to, port)).cloned() {
                let (near, far) = self.connect(fabric, from, to);
                taken.push(Taken { answer: call.answer, ends: Some((near, listener, far)) });
            } else {
                taken.push(Taken { answer: call.answer, ends: None });
            }
        }
        taken
    }

    fn deliver(&mut self) {
        let now = self.now;
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            for side in [0, 1] {
                let Some(connection) = self.connections.get(&id) else { break };
                let (from, to) = (connection.ends[side], connection.ends[1 - side]);
                let cut = self.is_cut(from, to);
                let told = self.cut.contains(&(from, to));
                let one_way = told && !self.cut.contains(&(to, from));
                let fresh = if cut { 0 } else { self.now + self.sent_again(id, side) };
                let counts = &mut self.counts;
                let Some(connection) = self.connections.get_mut(&id) else { break };
                let way = &mut connection.ways[side];
                if cut {
                    if way.flying.front().is_some_and(|(due, _)| *due <= now) && !way.was_stuck {
                        way.was_stuck = true;
                        counts.stuck += u64::from(told);
                        counts.stuck_one_way += u64::from(one_way);
                    }
                    continue;
                }
                if std::mem::take(&mut way.was_stuck) {
                    way.flying.iter_mut().for_each(|(due, _)| *due = (*due).max(fresh));
                }
                let (mut news, mut unread) = (false, false);
                while way.flying.front().is_some_and(|(due, _)| *due <= now) {
                    news = true;
                    counts.segments += 1;
                    match way.flying.pop_front() {
                        Some((_, Segment::Data(bytes))) => {
                            for byte in &bytes {
                                counts.digest = (counts.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                            }
                            counts.digest = counts.digest.rotate_left(7) ^ now ^ (id << 1) ^ side as u64;
                            way.arrived.push_back(bytes);
                            unread |= !connection.open[1 - side];
                        }
                        Some((_, Segment::End)) => way.ended = true,
                        None => {}
                    }
                }
                if news {
                    way.wake();
                }
                // Nobody is there any more to read it: the sender is told.
                if unread && connection.reset_at.is_none() {
                    connection.reset_at = Some(now + 1);
                }
                if side == 1 && connection.reset_at.is_some_and(|at| at <= now) && !connection.reset {
                    connection.reset = true;
                    connection.ways.iter_mut().for_each(Way::wake);
                }
            }
            if self.connections.get(&id).is_some_and(|c| {
                let left = |side: usize| !c.open[side] || c.gone[side];
                left(0) && left(1)
            }) {
                self.connections.remove(&id);
            }
        }
    }

    /// When what was stuck is sent again after a cut was mended.
    fn sent_again(&mut self, id: u64, side: usize) -> u64 {
        let stuck = self.connections.get(&id).is_some_and(|c| c.ways[side].was_stuck);
        if stuck { self.rng.random_range(1..=RESEND_MS) } else { 0 }
    }

    fn leave(&mut self, machine: Machine, heard_at: Option<u64>) {
        self.listeners.retain(|(at, _), _| *at != machine);
        self.calls.retain(|call| call.from != machine);
        for connection in self.connections.values_mut() {
            for side in [0, 1] {
                if connection.ends[side] == machine && !connection.gone[side] {
                    connection.gone[side] = true;
                    // Whatever it was about to close by itself it no longer does.
                    connection.ways[side].flying.retain(|(_, segment)| matches!(segment, Segment::Data(_)));
                    connection.reset_at = heard_at;
                }
            }
        }
    }
}

impl Fabric {
    pub(crate) fn new(seed: u64) -> Self {
        let inner = Inner {
            now: 0,
            rng: StdRng::seed_from_u64(seed),
            weather: Weather::FAIR,
            cut: BTreeSet::new(),
            silent: BTreeSet::new(),
            listeners: BTreeMap::new(),
            calls: Vec::new(),
            connections: BTreeMap::new(),
            next: 1,
            counts: Counts::default(),
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Time has come to `now`: what is due arrives.
    pub(crate) fn tick(&self, now: u64) {
        let taken = {
            let mut inner = self.0.lock();
            inner.now = now;
            inner.deliver();
            inner.take_calls(self)
        };
        for Taken { answer, ends } in taken {
            // Who has gone away meanwhile drops its end, and so closes it.
            match ends {
                Some((near, listener, far)) => {
                    let _ = listener.send(far);
                    let _ = answer.send(Ok(near));
                }
                None => drop(answer.send(Err(io::ErrorKind::ConnectionRefused.into()))),
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    pub(crate) fn weather(&self) -> Weather {
        self.0.lock().weather
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    /// Cuts the way from one machine to another.
    pub(crate) fn cut(&self, from: Machine, to: Machine) {
        self.0.lock().cut.insert((from, to));
    }

    /// Mends all cuts.
    pub(crate) fn mend(&self) {
        self.0.lock().cut.clear();
    }

    /// The process on the machine has died: its connections are reset.
    pub(crate) fn killed(&self, machine: Machine) {
        let mut inner = self.0.lock();
        let at = inner.now + 1 + inner.delay();
        inner.leave(machine, Some(at));
    }

    /// The machine has lost its power: nobody hears of it.
    pub(crate) fn power_off(&self, machine: Machine) {
        let mut inner = self.0.lock();
        inner.leave(machine, None);
        inner.silent.insert(machine);
    }

    /// The machine is back: it knows nothing of its connections, and says so.
    pub(crate) fn power_on(&self, machine: Machine) {
        let mut inner = self.0.lock();
        inner.silent.remove(&machine);
        let at = inner.now + 1 + inner.delay();
        for connection in inner.connections.values_mut() {
            let gone = (0..2).any(|side| connection.ends[side] == machine && connection.gone[side]);
            if gone && connection.reset_at.is_none() {
                connection.reset_at = Some(at);
            }
        }
    }

    /// The network as the machine sees it.
    pub(crate) fn port(&self, machine: Machine) -> Arc<dyn Wires> {
        Arc::new(Port { fabric: self.clone(), machine })
    }
}

/// A machine's address.
pub(crate) fn address(machine: Machine) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, machine)
}

struct Port {
    fabric: Fabric,
    machine: Machine,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port({})", self.machine)
    }
}

struct Ear {
    at: SocketAddr,
    calls: mpsc::UnboundedReceiver<Box<dyn Wire>>,
}

impl Accept for Ear {
    fn address(&self) -> SocketAddr {
        self.at
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn Wire>>> {
        Box::pin(async { self.calls.recv().await.ok_or_else(|| io::ErrorKind::ConnectionAborted.into()) })
    }
}

impl Wires for Port {
    fn listen(&self, _: &str, port: u16) -> io::Result<Box<dyn Accept>> {
        let (sender, calls) = mpsc::unbounded_channel();
        let mut inner = self.fabric.0.lock();
        if inner.listeners.contains_key(&(self.machine, port)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        inner.listeners.insert((self.machine, port), sender);
        Ok(Box::new(Ear { at: SocketAddr::from((address(self.machine), port)), calls }))
    }

    fn dial(&self, to: &str) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
        let (fabric, from) = (self.fabric.clone(), self.machine);
        let to: Result<SocketAddr, _> = to.parse();
        Box::pin(async move {
            let to = to.map_err(io::Error::other)?;
            let machine = match to.ip() {
                std::net::IpAddr::V4(v4) => v4.octets()[3],
                std::net::IpAddr::V6(_) => return Err(io::ErrorKind::AddrNotAvailable.into()),
            };
            let (answer, answered) = oneshot::channel();
            {
                let mut inner = fabric.0.lock();
                let due = inner.now + inner.delay() + inner.loss();
                inner.calls.push(Call { from, to: (machine, to.port()), due, answer });
            }
            answered.await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))?
        })
    }
}

/// One end of a connection.
struct End {
    fabric: Fabric,
    id: u64,
    side: usize,
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.fabric.0.lock();
        let Some(connection) = inner.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let reset = connection.reset;
        let way = &mut connection.ways[1 - self.side];
        if let Some(bytes) = way.arrived.front_mut() {
            let n = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..n]);
            bytes.advance(n);
            if bytes.is_empty() {
                way.arrived.pop_front();
            }
            way.flying_bytes -= n;
            if let Some(writer) = way.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if way.ended {
            return Poll::Ready(Ok(()));
        }
        way.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.fabric.0.lock();
        let Some(connection) = inner.connections.get_mut(&self.id) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if connection.reset || connection.gone[self.side] {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let way = &mut connection.ways[self.side];
        if way.flying_bytes >= WINDOW_BYTES {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        inner.send(self.id, self.side, Segment::Data(Bytes::copy_from_slice(buf)));
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.fabric.0.lock();
        inner.send(self.id, self.side, Segment::End);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut inner = self.fabric.0.lock();
        let Some(connection) = inner.connections.get_mut(&self.id) else { return };
        connection.open[self.side] = false;
        if !connection.gone[self.side] {
            inner.send(self.id, self.side, Segment::End);
        }
    }
}
