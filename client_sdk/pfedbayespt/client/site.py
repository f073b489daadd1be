"""A site: one organisation's part in a federation, beside its images.

    site = Site.enrol(url, token, name="clinic-a", directory="clinic-a-state", backbone="weights.safetensors")
    site.run(train="images/train", held_out="images/held-out")
    print(site.predict("images/new.png"))

Later, and after any crash: `Site.resume("clinic-a-state").run(...)`. What leaves the machine are updates of the
shared parameters, the number of training images, and figures about training and evaluation; images, labels and
personal parameters never do.
"""

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from pfedbayespt.client import events
from pfedbayespt.client.adaptation import AdaptationReport, choose_shots, personalise
from pfedbayespt.client.context_store import DEFAULT_STORE_BYTES
from pfedbayespt.client.contexts import DEFAULT_CACHE_BYTES
from pfedbayespt.client.coordinator import CoordinatorClient
from pfedbayespt.client.departure import leave
from pfedbayespt.client.enrolment import Access, agree, identity_in, join
from pfedbayespt.client.federation_model import FederationModel
from pfedbayespt.client.keys import rotate
from pfedbayespt.client.learner import Learner
from pfedbayespt.client.loop import SiteLoop
from pfedbayespt.client.outbox import Outbox
from pfedbayespt.client.personal import PersonalStore
from pfedbayespt.client.predictor import DEFAULT_NUM_SAMPLES, LocalPredictor
from pfedbayespt.client.predictors import Predictors
from pfedbayespt.client.state import Progress, StateDirectory
from pfedbayespt.client.transport import Timeouts, Transport
from pfedbayespt.client.workplace import ImageOptions, Images, encoded, read_split, read_splits, set_up
from pfedbayespt.model.backbone import choose_device
from pfedbayespt.model.personalisation import AdaptationConfig, HeadKind
from pfedbayespt.protocol import Evaluation, Federation, FederationSpecification, Prediction
from pfedbayespt.protocol import Site as SiteRecord


@dataclass(frozen=True)
class SiteStatus:
    """Where a site stands: what the coordinator knows of it, and how far it has come."""

    site: SiteRecord
    federation: Federation
    progress: Progress
    has_pending_update: bool


class Site:
    """An enrolled installation of an organisation. Make one with `enrol` or `resume`.

    Attributes:
        directory: its state directory (see `pfedbayespt.client.state`).
        client: the coordinator, with this site's identity.
    """

    def __init__(
        self, state: StateDirectory, access: Access, backbone: Path | None, device: str | None
    ) -> None:
        self._state = state
        self._enrolment = state.enrolment
        self.directory = state.path
        self._identity = identity_in(state)
        self.client: CoordinatorClient = access.client(self._enrolment.base_url, self._identity)
        self._agreement = agree(self.client, state, backbone)
        self._device = torch.device(device) if device else choose_device()
        self._stop = threading.Event()
        self._loaded: FederationModel | None = None
        self._predictors: Predictors | None = None

    @classmethod
    def enrol(
        cls,
        base_url: str,
        token: str,
        *,
        name: str,
        directory: Path | str,
        backbone: Path | str,
        proxy: str | None = None,
        ca_file: Path | str | None = None,
        timeouts: Timeouts | None = None,
        transport: Transport | None = None,
        device: str | None = None,
        coordinator_key_id: str | None = None,
    ) -> Self:
        """Join a federation with a one-use token, and pin its specification.

        Args:
            base_url: the coordinator's address.
            token: `enr_...`, from the federation's admin.
            name: what to call this site: lower-case letters, digits, hyphens.
            directory: where the site keeps its state, its private key included; empty or not yet there.
            backbone: safetensors file of the federation's backbone.
            proxy: address of an HTTP proxy; remembered.
            ca_file: PEM file of certificate authorities to trust; remembered.
            timeouts: how long to wait for what.
            transport: sends requests in place of httpx.
            device: a torch device; None: an accelerator if there is one.
            coordinator_key_id: `key_...`, if the admin handed it over with the token: whom to trust.

        Raises:
            EnrolmentTokenRefused: the token is unknown, used or expired.
            BackboneMismatchError: the file is not the federation's backbone; the site is enrolled all the same, so
                go on with `resume(directory, backbone=...)`.
            StateError: the directory holds a site already.
        """
        access = Access(proxy, str(ca_file) if ca_file else None, timeouts, transport)
        state = join(base_url, token, name, Path(directory), Path(backbone), access, coordinator_key_id)
        return cls(state, access, Path(backbone), device)

    @classmethod
    def resume(
        cls,
        directory: Path | str,
        *,
        backbone: Path | str | None = None,
        timeouts: Timeouts | None = None,
        transport: Transport | None = None,
        device: str | None = None,
    ) -> Self:
        """Go on with a site that was enrolled before.

        Args:
            directory: its state directory.
            backbone: where the backbone file is now; None: where it was.
            timeouts: how long to wait for what.
            transport: sends requests in place of httpx.
            device: a torch device; None: an accelerator if there is one.

        Raises:
            StateError: no site is enrolled there, or others may read its files.
            BackboneMismatchError: the backbone file is gone or is another one.
        """
        state = StateDirectory.open(Path(directory))
        enrolment = state.enrolment
        access = Access(enrolment.proxy, enrolment.ca_file, timeouts, transport)
        return cls(state, access, Path(backbone) if backbone else None, device)

    @property
    def name(self) -> str:
        """The site's name."""
        return self._enrolment.site_name

    @property
    def federation(self) -> str:
        """The federation's name."""
        return self._enrolment.federation

    @property
    def specification(self) -> FederationSpecification:
        """What this site agreed to."""
        return self._agreement.specification

    @property
    def specification_digest(self) -> str:
        """The digest that is pinned."""
        return self._agreement.specification_digest

    def run(
        self,
        train: Images,
        held_out: Images | None = None,
        *,
        on_event: events.Observer = events.unobserved,
        skip_unreadable: bool = False,
        require_all_classes: bool = False,
        max_cache_bytes: int = DEFAULT_CACHE_BYTES,
        max_store_bytes: int = DEFAULT_STORE_BYTES,
        store_directory: Path | str | None = None,
        patience_seconds: float = 600.0,
    ) -> Progress:
        """Take part in the federation's rounds until it is complete or `stop` is called.

        Args:
            train: images to train on: a folder of class folders, a CSV file with the columns `path` and
                `label`, or a dataset of (image, label).
            held_out: images to evaluate versions on, in the same form; None: every tenth training image.
            on_event: told what happens (`pfedbayespt.client.events`), in this thread.
            skip_unreadable: leave out files that are no readable images instead of refusing the folder.
            require_all_classes: refuse a folder in which a class of the federation has no folder.
            max_cache_bytes: memory for encoded images.
            max_store_bytes: disk for encoded images; 0: none are kept there.
            store_directory: where on the disk, so that several sites of one owner may share it; None: in the site's
                state directory. `leave` removes the latter.
            patience_seconds: how long the coordinator may be out of reach.

        Raises:
            DatasetError: the images or labels cannot be used.
            SpecificationChangedError, IntegrityError: what came is not what was agreed on or announced.
            StateError: another process runs this site.
            ProblemError, TransportError: see `SiteLoop.run`.
        """
        options = ImageOptions(
            skip_unreadable,
            require_all_classes,
            max_cache_bytes,
            store_directory=Path(store_directory or self.directory / "contexts"),
            max_store_bytes=max_store_bytes,
        )
        try:
            with self._state.locked():
                learner = self._learner(train, held_out, options, on_event)
                loop = SiteLoop(
                    self._state,
                    self.client,
                    self._identity,
                    learner,
                    self._agreement,
                    observer=on_event,
                    stop=self._stop,
                    patience_seconds=patience_seconds,
                )
                loop.run()
        finally:
            self._stop.clear()
        return self._state.progress

    def stop(self) -> None:
        """Ask `run` to end soon. May be called from another thread or a signal handler."""
        self._stop.set()

    def evaluate(
        self, images: Images, *, model_version: int | None = None, skip_unreadable: bool = False
    ) -> Evaluation:
        """Try a version (None: the serving one) on labelled images. Nothing is reported to anyone.

        Raises:
            DatasetError: the images or labels cannot be used.
        """
        split = read_split(images, self.specification.classes, ImageOptions(skip_unreadable=skip_unreadable))
        predictor = self.predictor(model_version=model_version)
        return predictor.evaluate(encoded(split, predictor.model, 0, events.unobserved))

    def predictor(self, *, model_version: int | None = None, offline: bool = False) -> LocalPredictor:
        """Return one verified version with this site's personal parameters, for many predictions.

        Args:
            model_version: a version's number; None: the one that serves now.
            offline: do not ask the coordinator; use the version that served when it was last asked.

        Raises:
            NoServingVersion: the federation has none yet.
            StateError: `offline`, and that version is not kept here.
        """
        return self._all_predictors().get(model_version, offline=offline)

    def _all_predictors(self) -> Predictors:
        if self._predictors is None:
            self._predictors = Predictors(self._state, self.client, self.model())
        return self._predictors

    def predict(
        self,
        image: Path | str | bytes,
        *,
        num_samples: int = DEFAULT_NUM_SAMPLES,
        top_k: int | None = None,
        seed: int | None = None,
        model_version: int | None = None,
    ) -> Prediction:
        """Classify one JPEG, PNG or WEBP file, here; see `LocalPredictor.predict` and `predictor`."""
        predictor = self.predictor(model_version=model_version)
        return predictor.predict(image, num_samples=num_samples, top_k=top_k, seed=seed)

    def adapt(
        self,
        images: Images,
        held_out: Images | None = None,
        *,
        shots: int | None = None,
        kind: HeadKind = "residual",
        model_version: int | None = None,
        seed: int = 0,
        insist: bool = False,
        skip_unreadable: bool = False,
    ) -> AdaptationReport:
        """Tune a head of this site's own on a few labelled images, everything else frozen; see `client.adaptation`.

        It is used for predictions here as long as its version or a later one answers. A site that has never taken
        part in a round can do this.

        Args:
            images: labelled images to learn from.
            held_out: others, to compare on; None: those of `images` that are not learnt from.
            shots: how many of each class to learn from; None: 5, or all if `held_out` is given.
            kind: `residual` stays near the federation's head, `head` becomes the site's own.
            model_version: a version's number; None: the one that serves now.
            seed: chooses the images and the prompt samples.
            insist: keep the head even if it does not help on the held-out images.
            skip_unreadable: leave out files that are no readable images.

        Raises:
            DatasetError: the images or labels cannot be used.
        """
        options = ImageOptions(skip_unreadable=skip_unreadable)
        everything = read_split(images, self.specification.classes, options)
        per_class = shots or (5 if held_out is None else len(everything.labels))
        chosen, others = choose_shots(everything.labels, per_class, seed)
        compared = (
            everything.part(others)
            if held_out is None
            else read_split(held_out, self.specification.classes, options)
        )
        head = self.specification.head
        # A residual that rounds train has the site's class prior in it, and no prior is put on top.
        free_of_prior = head.label_shift and not head.personal_residual
        return personalise(
            self._all_predictors().shared(model_version),
            everything.part(chosen),
            compared,
            PersonalStore(self.directory / "personal"),
            AdaptationConfig(kind, seed=seed, free_of_prior=free_of_prior),
            insist=insist,
        )

    def status(self) -> SiteStatus:
        """Return where the site stands."""
        return SiteStatus(
            site=self.client.sites.me(),
            federation=self.client.federations.get(self.federation),
            progress=self._state.progress,
            has_pending_update=Outbox(self.directory).pending() is not None,
        )

    def rotate_key(self) -> str:
        """Replace the site's private key and return the new one's id; a kill in between does no harm.

        Raises:
            StateError: another process runs this site.
        """
        with self._state.locked():
            site_id = self._enrolment.site_id
            return rotate(self.directory, site_id, self.client.sites, self._identity).key_id

    def leave(self) -> None:
        """Leave the federation for good; see `departure.leave`.

        Raises:
            StateError: another process runs this site.
            ProblemError, TransportError: the coordinator could not be told; nothing is removed.
        """
        leave(self._state, self.client, self._identity.key)
        self.client.close()

    def model(self) -> FederationModel:
        """Return the federation's model around the verified backbone; it is loaded once."""
        if self._loaded is None:
            agreement = self._agreement
            self._loaded = FederationModel.load(
                agreement.specification, Path(agreement.backbone_file), self._device
            )
        return self._loaded

    def _learner(
        self, train: Images, held_out: Images | None, options: ImageOptions, observer: events.Observer
    ) -> Learner:
        classes = self.specification.classes
        training, evaluated = read_splits(train, held_out, classes, options)
        learner = set_up(self.model(), self.name, training, evaluated, options, observer)
        counts = Counter(training.labels)
        self._state.update_progress(class_counts=tuple(counts[position] for position in range(len(classes))))
        observer(
            events.SiteStarted(
                site_name=self.name,
                federation=self.federation,
                num_training_images=len(training.labels),
                num_held_out_images=len(evaluated.labels),
                device=str(self._device),
            )
        )
        return learner
