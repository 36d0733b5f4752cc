//! One job of one pod, carried out.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use adit_core::enrolment::{Job, Target};
use adit_core::workload::PodUid;

use super::{Certificates, Workers};
use crate::datapath::{Datapath, DatapathError, EnrolledPod, OpenPod, PodTarget};

/// What the jobs are done with.
pub(super) struct Outside<D, C, W> {
    pub(super) datapath: D,
    pub(super) certificates: C,
    pub(super) workers: W,
}

/// A pod whose namespace is open.
pub(super) struct Opened<P> {
    pub(super) pod: Arc<P>,
    pub(super) target: Arc<Target>,
}

/// How a job ended: [`Job::Open`] with the pod, the others with `None`; or with the whole error.
pub(super) type Outcome<P> = Result<Option<Opened<P>>, Arc<str>>;

impl<P> Clone for Opened<P> {
    fn clone(&self) -> Self {
        Self { pod: Arc::clone(&self.pod), target: Arc::clone(&self.target) }
    }
}

impl<D: Datapath, C: Certificates, W: Workers> Outside<D, C, W> {
    pub(super) async fn carry_out(
        &self,
        uid: &PodUid,
        job: &Job,
        opened: Option<Opened<D::Pod>>,
    ) -> Outcome<D::Pod> {
        if let Job::Open(target) = job {
            return self.open(target).await.map(Some);
        }
        let done = match (job, opened) {
            (Job::Forget, _) => self.datapath.forget(uid).await.map_err(|e| whole(&e)),
            (Job::Retire, _) => {
                self.workers.remove(uid).await;
                Ok(())
            }
            (Job::Perform(step), Some(Opened { pod, .. })) => {
                let done = self.datapath.perform(&pod, *step).await;
                done.map_err(|error| whole(&error))
            }
            (Job::Undo(step), Some(Opened { pod, .. })) => {
                let done = self.datapath.undo(&pod, *step).await;
                done.map_err(|error| whole(&error))
            }
            (Job::Serve, Some(opened)) => self.serve(&opened).await,
            (Job::Open(_) | Job::Perform(_) | Job::Undo(_) | Job::Serve, _) => {
                Err(Arc::from("the pod's namespace is not open"))
            }
        };
        done.map(|()| None)
    }

    async fn open(&self, target: &Arc<Target>) -> Result<Opened<D::Pod>, Arc<str>> {
        let Some(netns) = &target.netns else {
            return Err(Arc::from("the pod's network namespace is not known"));
        };
        let wanted = PodTarget {
            uid: target.uid.clone(),
            addresses: target.addresses.clone(),
            netns: PathBuf::from(&**netns),
        };
        let opened: Result<Arc<D::Pod>, DatapathError> = self.datapath.open(&wanted).await;
        let pod = opened.map_err(|error| whole(&error))?;
        Ok(Opened { pod, target: Arc::clone(target) })
    }

    async fn serve(&self, opened: &Opened<D::Pod>) -> Result<(), Arc<str>> {
        let listeners = opened.pod.take_listeners();
        if listeners.is_empty() {
            return Err(Arc::from("the pod has no listeners to serve"));
        }
        let target = &opened.target;
        let pod = Arc::new(EnrolledPod {
            uid: target.uid.clone(),
            name: target.name.clone(),
            identity: target.identity.clone(),
            addresses: target.addresses.clone(),
            sockets: opened.pod.sockets(),
        });
        let served = self.workers.add(&pod, listeners).await;
        served.map_err(|error| Arc::from(format!("workers could not listen: {error}")))
    }
}

/// An error and its causes.
fn whole(error: &dyn Error) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    Arc::from(text)
}
