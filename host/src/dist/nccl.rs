//! NCCL on GPUs: one GPU a process. The communicator lives on a thread of its own, so that every
//! operation has a deadline: NCCL itself waits for ever for a peer that is gone.

use std::ffi::c_char;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr};
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, NcclType, ReduceOp};

use super::collective::{Collective, Reduce};
use super::environment::Environment;
use super::store::Client;
use super::watch::Watch;
use super::{DistError, seconds};

/// Bytes of NCCL's identifier of a group.
const ID_BYTES: usize = 128;

/// Whether NCCL's library is there. It must be found as `libnccl.so`: the packages of its runtime bring
/// `libnccl.so.2` alone.
pub fn is_present() -> bool {
    // SAFETY: this only tries to load a shared library of that name.
    unsafe { candle_core::cuda_backend::cudarc::nccl::sys::is_culib_present() }
}

/// What the thread is asked to do; it answers with the values.
enum Work {
    ReduceF32(Vec<f32>, Reduce),
    ReduceF64(Vec<f64>, Reduce),
    Gather(Vec<u8>),
    Scatter(Vec<f32>),
    Broadcast(Vec<u8>, usize),
}

enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bytes(Vec<u8>),
}

type Answer = Result<Values, String>;

/// See the module.
pub struct Nccl {
    rank: usize,
    size: usize,
    deadline: Duration,
    thread: Mutex<(Sender<Work>, Receiver<Answer>)>,
    watch: Watch,
}

/// The thread's side.
struct Engine {
    comm: Comm,
    stream: Arc<CudaStream>,
    rank: usize,
    size: usize,
}

fn text(e: impl std::fmt::Debug) -> String {
    format!("{e:?}")
}

impl Engine {
    fn new(gpu: usize, rank: usize, size: usize, id: Id) -> Result<Self, String> {
        let context = CudaContext::new(gpu).map_err(text)?;
        let stream = context.new_stream().map_err(text)?;
        let comm = Comm::from_rank(stream.clone(), rank, size, id).map_err(text)?;
        Ok(Self { comm, stream, rank, size })
    }

    fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>, String> {
        self.stream.clone_htod(values).map_err(text)
    }

    fn download<T: DeviceRepr>(&self, values: &CudaSlice<T>) -> Result<Vec<T>, String> {
        let values = self.stream.clone_dtoh(values).map_err(text)?;
        self.stream.synchronize().map_err(text)?;
        Ok(values)
    }

    fn reduce<T: DeviceRepr + NcclType>(&self, values: &[T], by: Reduce) -> Result<Vec<T>, String> {
        let mut values = self.upload(values)?;
        let by = match by {
            Reduce::Sum => ReduceOp::Sum,
            Reduce::Max => ReduceOp::Max,
        };
        self.comm.all_reduce_in_place(&mut values, &by).map_err(text)?;
        self.download(&values)
    }

    fn run(&self, work: Work) -> Answer {
        match work {
            Work::ReduceF32(values, by) => self.reduce(&values, by).map(Values::F32),
            Work::ReduceF64(values, by) => self.reduce(&values, by).map(Values::F64),
            Work::Gather(own) => {
                let own = self.upload(&own)?;
                let mut all = self.stream.alloc_zeros::<u8>(own.len() * self.size).map_err(text)?;
                self.comm.all_gather(&own, &mut all).map_err(text)?;
                self.download(&all).map(Values::Bytes)
            }
            Work::Scatter(mut values) => {
                let part = values.len() / self.size;
                let all = self.upload(&values)?;
                let mut own = self.stream.alloc_zeros::<f32>(part).map_err(text)?;
                self.comm.reduce_scatter(&all, &mut own, &ReduceOp::Sum).map_err(text)?;
                let own = self.download(&own)?;
                values[self.rank * part..][..part].copy_from_slice(&own);
                Ok(Values::F32(values))
            }
            Work::Broadcast(bytes, root) => {
                let mut bytes = self.upload(&bytes)?;
                self.comm.broadcast_in_place(&mut bytes, root as i32).map_err(text)?;
                self.download(&bytes).map(Values::Bytes)
            }
        }
    }

    /// Answers until nobody asks any more.
    fn serve(self, works: &Receiver<Work>, answers: &Sender<Answer>) {
        while let Ok(work) = works.recv() {
            if answers.send(self.run(work)).is_err() {
                return;
            }
        }
    }
}

impl Nccl {
    /// Meets the other ranks over the store, this process with GPU `gpu`.
    ///
    /// # Errors
    /// A store that is lost, ranks that don't come in time, a GPU that fails.
    pub fn connect(
        environment: &Environment,
        mut client: Client,
        prefix: &str,
        gpu: usize,
        deadline: Duration,
    ) -> Result<Self, DistError> {
        let Environment { rank, size, .. } = *environment;
        let at = (environment.master.0.as_str(), environment.master.1);
        let lost = |reason: String| DistError::Store {
            rank,
            address: format!("{}:{}", at.0, at.1),
            reason,
        };
        let failed = |reason: String| DistError::Collective {
            rank,
            size,
            operation: "connecting the ranks by NCCL".into(),
            reason,
            suspects: String::new(),
        };
        let key = format!("{prefix}/nccl/id");
        if rank == 0 {
            let id = Id::new().map_err(|e| failed(text(e)))?;
            let bytes: Vec<u8> = id.internal().iter().map(|&b| b.cast_unsigned()).collect();
            client.set(&key, &bytes).map_err(|e| lost(e.to_string()))?;
        }
        let bytes = client.get(&key, deadline).map_err(|e| lost(e.to_string()))?;
        if bytes.len() != ID_BYTES {
            return Err(failed(format!("rank 0 gave an identifier of {} bytes", bytes.len())));
        }
        let mut internal: [c_char; ID_BYTES] = [0; ID_BYTES];
        internal.iter_mut().zip(&bytes).for_each(|(to, from)| *to = from.cast_signed());
        let watch = Watch::start(rank, size, at, prefix, client, deadline)
            .map_err(|e| lost(e.to_string()))?;

        let (works, to_do) = channel::<Work>();
        let (answers, answered) = channel::<Answer>();
        let begin = move || match Engine::new(gpu, rank, size, Id::uninit(internal)) {
            Err(reason) => drop(answers.send(Err(reason))),
            Ok(engine) => {
                if answers.send(Ok(Values::Bytes(Vec::new()))).is_ok() {
                    engine.serve(&to_do, &answers);
                }
            }
        };
        std::thread::Builder::new()
            .name("nccl".into())
            .spawn(begin)
            .map_err(|e| failed(e.to_string()))?;
        let nccl = Self { rank, size, deadline, thread: Mutex::new((works, answered)), watch };
        nccl.answer("connecting the ranks by NCCL".into(), None)?;
        Ok(nccl)
    }

    /// Hands over work, if any, and waits for the answer within the deadline. After that the thread
    /// may hang in NCCL for ever; it ends with the process.
    fn answer(&self, operation: String, work: Option<Work>) -> Result<Values, DistError> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        self.watch.enter(&operation);
        let gone = || "its thread is gone".to_string();
        let sent = work.map_or(Ok(()), |work| thread.0.send(work).map_err(|_| gone()));
        let answer = sent.and_then(|()| match thread.1.recv_timeout(self.deadline) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("no answer within {}", seconds(self.deadline)))
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        });
        answer.map_err(|reason| DistError::Collective {
            rank: self.rank,
            size: self.size,
            operation,
            reason,
            suspects: self.watch.diagnose(),
        })
    }

    fn run(&self, name: &str, what: &str, work: Work) -> Result<Values, DistError> {
        self.answer(format!("{name} ({what})"), Some(work))
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, values: &mut [f32], by: Reduce, what: &str) -> Result<(), DistError> {
        if values.is_empty() {
            return Ok(());
        }
        if let Values::F32(sums) =
            self.run("all_reduce", what, Work::ReduceF32(values.into(), by))?
        {
            values.copy_from_slice(&sums);
        }
        Ok(())
    }

    fn all_reduce_f64(&self, values: &mut [f64], by: Reduce, what: &str) -> Result<(), DistError> {
        if values.is_empty() {
            return Ok(());
        }
        if let Values::F64(sums) =
            self.run("all_reduce", what, Work::ReduceF64(values.into(), by))?
        {
            values.copy_from_slice(&sums);
        }
        Ok(())
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], what: &str) -> Result<(), DistError> {
        assert_eq!(all.len(), own.len() * self.size, "room for every rank's bytes");
        if own.is_empty() {
            return Ok(());
        }
        if let Values::Bytes(bytes) = self.run("all_gather", what, Work::Gather(own.into()))? {
            all.copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn reduce_scatter(&self, values: &mut [f32], what: &str) -> Result<(), DistError> {
        if values.is_empty() {
            return Ok(());
        }
        if let Values::F32(sums) = self.run("reduce_scatter", what, Work::Scatter(values.into()))? {
            values.copy_from_slice(&sums);
        }
        Ok(())
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize, what: &str) -> Result<(), DistError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Values::Bytes(told) =
            self.run("broadcast", what, Work::Broadcast(bytes.into(), root))?
        {
            bytes.copy_from_slice(&told);
        }
        Ok(())
    }

    fn barrier(&self, what: &str) -> Result<(), DistError> {
        self.run("barrier", what, Work::ReduceF32(vec![0.0], Reduce::Sum)).map(drop)
    }

    fn leave(&self, why: &str) {
        self.watch.end(why);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::{self, DeviceChoice};
    use crate::dist::store::Server;

    #[test]
    fn a_group_of_one_gives_back_what_it_was_given() {
        if !is_present() || device::open(DeviceChoice::Cuda(None)).is_err() {
            println!("skipped: no NCCL or no CUDA device");
            return;
        }
        let server = Server::start(0).unwrap();
        let deadline = Duration::from_secs(60);
        let client = Client::connect("127.0.0.1", server.port(), deadline).unwrap();
        let environment =
            Environment { master: ("127.0.0.1".into(), server.port()), ..Environment::single() };
        let nccl = Nccl::connect(&environment, client, "/test", 0, deadline).unwrap();
        let mut sums = [1.5f32, -2.0];
        nccl.all_reduce(&mut sums, Reduce::Sum, "sums").unwrap();
        let mut most = [3.0f64];
        nccl.all_reduce_f64(&mut most, Reduce::Max, "most").unwrap();
        let mut all = [0u8; 3];
        nccl.all_gather(b"abc", &mut all, "bytes").unwrap();
        let mut scattered = [7.0f32; 4];
        nccl.reduce_scatter(&mut scattered, "scattered").unwrap();
        let mut told = *b"told";
        nccl.broadcast(&mut told, 0, "told").unwrap();
        nccl.barrier("here").unwrap();
        assert_eq!(
            (sums, most, &all, scattered, &told),
            ([1.5, -2.0], [3.0], b"abc", [7.0; 4], b"told")
        );
    }
}
