//! Who this process is among those that a launcher started, by the variables the launcher set.
//!
//! Looked for in this order: torchrun (and `trainer launch`), Open MPI, Slurm, PMI (MPICH, Intel MPI),
//! Kubeflow's PyTorchJob. A launcher inside another one sets the variables that count.

use super::DistError;
use super::slurm;

/// torch's own default port.
const DEFAULT_PORT: u16 = 29500;

/// Who started this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Nobody: a single process.
    None,
    /// `torchrun`, or `trainer launch`, which sets the same variables.
    Torchrun,
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// `srun`.
    Slurm,
    /// A launcher of the PMI family: MPICH's and Intel MPI's hydra.
    Pmi,
    /// A pod of a Kubeflow PyTorchJob.
    PyTorchJob,
}

impl Launcher {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::None => "nobody",
            Launcher::Torchrun => "torchrun",
            Launcher::OpenMpi => "mpirun",
            Launcher::Slurm => "srun",
            Launcher::Pmi => "mpiexec",
            Launcher::PyTorchJob => "the PyTorchJob",
        }
    }
}

/// What the launcher said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Who started this process.
    pub launcher: Launcher,
    /// Its number among all.
    pub rank: usize,
    /// All processes.
    pub size: usize,
    /// Its number among those on this machine.
    pub local_rank: usize,
    /// Processes on this machine.
    pub local_size: usize,
    /// Where the store is: host and port. Empty host: a single process needs none.
    pub master: (String, u16),
    /// Whether the launcher serves the store there; otherwise rank 0 does.
    pub agent_store: bool,
    /// The job's name: keeps apart what several jobs put into one store.
    pub job: String,
    /// How often the launcher started all ranks again.
    pub attempt: u64,
}

impl Environment {
    /// A process of its own.
    pub fn single() -> Self {
        Self {
            launcher: Launcher::None,
            rank: 0,
            size: 1,
            local_rank: 0,
            local_size: 1,
            master: (String::new(), 0),
            agent_store: false,
            job: String::new(),
            attempt: 0,
        }
    }

    /// From this process's variables.
    ///
    /// # Errors
    /// [`DistError::Environment`] with everything that makes no sense.
    pub fn detect() -> Result<Self, DistError> {
        Self::from(&|name| std::env::var(name).ok())
    }

    /// From variables that `get` knows.
    ///
    /// # Errors
    /// As [`Environment::detect`].
    pub fn from(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, DistError> {
        let mut reader = Reader { get, faults: Vec::new() };
        let found = reader.read();
        match reader.faults.is_empty() {
            true => Ok(found),
            false => Err(DistError::Environment(reader.faults)),
        }
    }

    /// Whether another machine takes part.
    pub fn many_machines(&self) -> bool {
        self.local_size < self.size
    }
}

/// How often the launcher started this process again; 0 the first time.
pub fn restart_count() -> u64 {
    let count = std::env::var("TORCHELASTIC_RESTART_COUNT").ok();
    count.and_then(|text| text.parse().ok()).unwrap_or(0)
}

struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|t| t.trim().to_string()).filter(|t| !t.is_empty())
    }

    fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    fn number(&mut self, name: &str) -> Option<usize> {
        let text = self.text(name)?;
        let number = text.parse().ok().filter(|&n: &usize| n <= 1 << 20);
        if number.is_none() {
            let text = crate::error::excerpt(&text);
            self.faults.push(format!("{name} is `{text}`, expected a whole number"));
        }
        number
    }

    /// A number that must be there.
    fn required(&mut self, name: &str, beside: &str) -> usize {
        if !self.has(name) {
            self.faults.push(format!("{beside} is set but {name} is not; set both or neither"));
        }
        self.number(name).unwrap_or(0)
    }

    fn read(&mut self) -> Environment {
        let mut found = Environment::single();
        if self.has("LOCAL_RANK") && (self.has("RANK") || self.has("WORLD_SIZE")) {
            found.launcher = Launcher::Torchrun;
            found.rank = self.required("RANK", "LOCAL_RANK");
            found.size = self.required("WORLD_SIZE", "LOCAL_RANK");
            found.local_rank = self.number("LOCAL_RANK").unwrap_or(0);
            found.local_size = self.number("LOCAL_WORLD_SIZE").unwrap_or(found.size);
            found.agent_store =
                self.text("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
            found.job = self.text("TORCHELASTIC_RUN_ID").unwrap_or_default();
            found.attempt = self.number("TORCHELASTIC_RESTART_COUNT").unwrap_or(0) as u64;
        } else if self.has("OMPI_COMM_WORLD_RANK") || self.has("OMPI_COMM_WORLD_SIZE") {
            found.launcher = Launcher::OpenMpi;
            found.rank = self.required("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
            found.size = self.required("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK");
            found.local_rank = self.number("OMPI_COMM_WORLD_LOCAL_RANK").unwrap_or(0);
            found.local_size = self.number("OMPI_COMM_WORLD_LOCAL_SIZE").unwrap_or(found.size);
        } else if self.has("SLURM_STEP_ID") && self.has("SLURM_PROCID") {
            // A batch script itself has a SLURM_PROCID too, but belongs to no step of srun's.
            self.slurm(&mut found);
        } else if self.has("PMI_RANK") || self.has("PMI_SIZE") {
            found.launcher = Launcher::Pmi;
            found.rank = self.required("PMI_RANK", "PMI_SIZE");
            found.size = self.required("PMI_SIZE", "PMI_RANK");
            found.local_rank = self.number("MPI_LOCALRANKID").unwrap_or(0);
            found.local_size = self.number("MPI_LOCALNRANKS").unwrap_or(found.size);
        } else if self.has("RANK") {
            // A pod for each process; the device is the pod's first.
            found.launcher = Launcher::PyTorchJob;
            found.rank = self.number("RANK").unwrap_or(0);
            found.size = self.required("WORLD_SIZE", "RANK");
        } else if let Some(size) = self.number("WORLD_SIZE")
            && size > 1
        {
            self.faults
                .push(format!("WORLD_SIZE is {size} but RANK is not set; set both or neither"));
        }
        if self.faults.is_empty() && found.launcher != Launcher::None {
            self.check(&found);
        }
        if self.faults.is_empty() && found.size > 1 {
            self.master(&mut found);
        }
        found
    }

    fn slurm(&mut self, found: &mut Environment) {
        found.launcher = Launcher::Slurm;
        found.rank = self.number("SLURM_PROCID").unwrap_or(0);
        found.size = match self.number("SLURM_STEP_NUM_TASKS") {
            Some(tasks) => tasks,
            None => self.required("SLURM_NTASKS", "SLURM_PROCID"),
        };
        found.local_rank = self.number("SLURM_LOCALID").unwrap_or(0);
        let node = self.number("SLURM_NODEID").unwrap_or(0);
        let by_node = self
            .text("SLURM_STEP_TASKS_PER_NODE")
            .or_else(|| self.text("SLURM_TASKS_PER_NODE"))
            .and_then(|list| slurm::tasks_on(&list, node));
        found.local_size = match by_node {
            Some(tasks) => tasks,
            None => self.number("SLURM_NTASKS_PER_NODE").unwrap_or(found.size),
        };
        found.job = self.text("SLURM_JOB_ID").unwrap_or_default();
        found.attempt = self.number("SLURM_RESTART_COUNT").unwrap_or(0) as u64;
    }

    fn check(&mut self, found: &Environment) {
        let (rank, size, name) = (found.rank, found.size, found.launcher.name());
        let mut fault =
            |text: String| self.faults.push(format!("the variables of {name} say {text}"));
        if size == 0 {
            fault("that there are 0 processes".into());
        } else if rank >= size {
            fault(format!("that this is rank {rank} of {size}; ranks count from 0"));
        }
        if found.local_rank >= found.local_size.max(1) {
            fault(format!(
                "that this is process {} of {} on this machine; they count from 0",
                found.local_rank, found.local_size
            ));
        }
        if found.local_size > size {
            fault(format!("that {} of {size} processes run on this machine", found.local_size));
        }
    }

    fn master(&mut self, found: &mut Environment) {
        let name = found.launcher.name();
        let port = self.number("MASTER_PORT");
        if let Some(port) = port.filter(|&p| p == 0 || p > usize::from(u16::MAX)) {
            self.faults.push(format!("MASTER_PORT is {port}, expected 1 to 65535"));
        }
        let job = found.job.bytes().filter(u8::is_ascii_digit);
        // Jobs that share a machine should not share a port.
        let offset = job.fold(0u32, |n, d| (n * 10 + u32::from(d - b'0')) % 1000) as u16;
        let port = port.map(|p| p as u16);
        let own_port =
            if found.launcher == Launcher::Slurm { DEFAULT_PORT + offset } else { DEFAULT_PORT };
        let nodes = self.text("SLURM_STEP_NODELIST").or_else(|| self.text("SLURM_JOB_NODELIST"));
        let first = nodes.filter(|_| found.launcher == Launcher::Slurm);
        let host = match (self.text("MASTER_ADDR"), found.launcher) {
            (Some(host), _) => Some(host),
            (None, Launcher::Torchrun | Launcher::PyTorchJob) => None,
            (None, _) if !found.many_machines() => Some("127.0.0.1".into()),
            (None, _) => first.and_then(|list| slurm::first_node(&list)),
        };
        let Some(host) = host else {
            let how = match found.launcher {
                Launcher::OpenMpi => "; pass it: mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500 …",
                Launcher::Pmi => {
                    "; pass it: mpiexec -genv MASTER_ADDR HOST -genv MASTER_PORT 29500 …"
                }
                _ => "; set it to the host of rank 0",
            };
            self.faults.push(format!(
                "{name} started {} processes but MASTER_ADDR is not set{how}",
                found.size
            ));
            return;
        };
        if port.is_none() && matches!(found.launcher, Launcher::Torchrun | Launcher::PyTorchJob) {
            self.faults.push(format!(
                "{name} started {} processes but MASTER_PORT is not set; set it to a free port of MASTER_ADDR",
                found.size
            ));
        }
        found.master = (host, port.unwrap_or(own_port));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Environment, String> {
        let get =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        Environment::from(&get).map_err(|e| e.to_string())
    }

    const TORCHRUN: &[(&str, &str)] = &[
        ("RANK", "3"),
        ("WORLD_SIZE", "4"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "10.0.0.1"),
        ("MASTER_PORT", "29400"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("TORCHELASTIC_RUN_ID", "job"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
    ];

    fn short(e: &Environment) -> (Launcher, [usize; 4], String) {
        let master = format!("{}:{}", e.master.0, e.master.1);
        (e.launcher, [e.rank, e.size, e.local_rank, e.local_size], master)
    }

    #[test]
    fn nothing_set_is_a_process_of_its_own() {
        assert_eq!(of(&[]).unwrap(), Environment::single());
        // A batch script of Slurm's is no step; a size of one needs no address.
        assert_eq!(of(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap().size, 1);
        assert_eq!(of(&[("WORLD_SIZE", "1")]).unwrap().size, 1);
        let one = of(&[("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")]).unwrap();
        assert_eq!((one.size, one.master.0.as_str()), (1, ""));
    }

    #[test]
    fn every_launcher_is_understood() {
        let torchrun = of(TORCHRUN).unwrap();
        assert!(torchrun.agent_store && torchrun.attempt == 2 && torchrun.job == "job");
        assert_eq!(short(&torchrun), (Launcher::Torchrun, [3, 4, 1, 2], "10.0.0.1:29400".into()));
        let open_mpi = of(&[
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
            // The rank on the node, not the node's number.
            ("OMPI_COMM_WORLD_NODE_RANK", "1"),
            ("PMI_RANK", "7"),
        ]);
        assert_eq!(
            short(&open_mpi.unwrap()),
            (Launcher::OpenMpi, [1, 2, 1, 2], "127.0.0.1:29500".into())
        );
        let srun = of(&[
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "6"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_NODEID", "2"),
            ("SLURM_TASKS_PER_NODE", "2(x3)"),
            ("SLURM_JOB_NODELIST", "gpu[07-09]"),
            ("SLURM_JOB_ID", "12345"),
        ]);
        assert_eq!(short(&srun.unwrap()), (Launcher::Slurm, [5, 6, 1, 2], "gpu07:29845".into()));
        let hydra = of(&[
            ("PMI_RANK", "1"),
            ("PMI_SIZE", "4"),
            ("MPI_LOCALRANKID", "1"),
            ("MPI_LOCALNRANKS", "2"),
            ("MASTER_ADDR", "head"),
            ("MASTER_PORT", "3000"),
        ]);
        assert_eq!(short(&hydra.unwrap()), (Launcher::Pmi, [1, 4, 1, 2], "head:3000".into()));
        let pod = of(&[
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("MASTER_ADDR", "job-master-0"),
            ("MASTER_PORT", "23456"),
        ]);
        assert_eq!(
            short(&pod.unwrap()),
            (Launcher::PyTorchJob, [1, 2, 0, 1], "job-master-0:23456".into())
        );
    }

    #[test]
    fn torchrun_within_srun_counts() {
        let mut all = TORCHRUN.to_vec();
        all.extend([("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2")]);
        assert_eq!(of(&all).unwrap().launcher, Launcher::Torchrun);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_all_that_is_wrong() {
        let with = |name: &'static str, value: &'static str| {
            let mut all: Vec<_> = TORCHRUN.iter().filter(|(n, _)| *n != name).copied().collect();
            if !value.is_empty() {
                all.push((name, value));
            }
            of(&all).unwrap_err()
        };
        assert!(with("RANK", "4").contains("rank 4 of 4"));
        assert!(with("RANK", "one").contains("RANK is `one`"));
        assert!(with("WORLD_SIZE", "").contains("WORLD_SIZE is not"));
        assert!(with("WORLD_SIZE", "0").contains("0 processes"));
        assert!(with("LOCAL_RANK", "2").contains("process 2 of 2 on this machine"));
        assert!(with("LOCAL_WORLD_SIZE", "9").contains("9 of 4 processes"));
        assert!(with("MASTER_ADDR", "").contains("MASTER_ADDR is not set"));
        assert!(with("MASTER_PORT", "70000").contains("1 to 65535"));
        assert!(with("MASTER_PORT", "").contains("MASTER_PORT is not set"));
        let several = of(&[("RANK", "x"), ("WORLD_SIZE", "y"), ("LOCAL_RANK", "0")]).unwrap_err();
        assert!(several.contains("RANK is `x`") && several.contains("WORLD_SIZE is `y`"));
        assert!(of(&[("RANK", "0")]).unwrap_err().contains("WORLD_SIZE is not"));
        assert!(of(&[("WORLD_SIZE", "2")]).unwrap_err().contains("RANK is not set"));
        let far = [
            ("OMPI_COMM_WORLD_RANK", "0"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "1"),
        ];
        assert!(of(&far).unwrap_err().contains("mpirun -x MASTER_ADDR"));
    }
}
