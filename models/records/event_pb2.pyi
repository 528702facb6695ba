from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Event(_message.Message):
    __slots__ = ("id", "timestamp", "platform", "event_type", "repository", "pipeline_id", "job_id", "metadata", "failure_context")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    id: str
    timestamp: int
    platform: str
    event_type: str
    repository: str
    pipeline_id: str
    job_id: str
    metadata: Metadata
    failure_context: FailureContext
    def __init__(self, id: _Optional[str] = ..., timestamp: _Optional[int] = ..., platform: _Optional[str] = ..., event_type: _Optional[str] = ..., repository: _Optional[str] = ..., pipeline_id: _Optional[str] = ..., job_id: _Optional[str] = ..., metadata: _Optional[_Union[Metadata, _Mapping]] = ..., failure_context: _Optional[_Union[FailureContext, _Mapping]] = ...) -> None: ...

class Metadata(_message.Message):
    __slots__ = ("instance", "outcome", "commit_sha", "branch", "author", "logs_url", "artifacts_url", "url", "workflow", "workflow_id", "job_name", "job_number", "attempt", "vendor_status", "stage", "step", "runner", "runner_labels", "trigger", "environment", "is_default_branch", "is_fork", "is_deploy", "allow_failure", "native_retries", "rerun_after", "queued_ms", "duration_ms")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SHA_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    LOGS_URL_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_URL_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    JOB_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    VENDOR_STATUS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RUNNER_FIELD_NUMBER: _ClassVar[int]
    RUNNER_LABELS_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_BRANCH_FIELD_NUMBER: _ClassVar[int]
    IS_FORK_FIELD_NUMBER: _ClassVar[int]
    IS_DEPLOY_FIELD_NUMBER: _ClassVar[int]
    ALLOW_FAILURE_FIELD_NUMBER: _ClassVar[int]
    NATIVE_RETRIES_FIELD_NUMBER: _ClassVar[int]
    RERUN_AFTER_FIELD_NUMBER: _ClassVar[int]
    QUEUED_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    outcome: str
    commit_sha: str
    branch: str
    author: str
    logs_url: str
    artifacts_url: str
    url: str
    workflow: str
    workflow_id: str
    job_name: str
    job_number: int
    attempt: int
    vendor_status: str
    stage: str
    step: str
    runner: str
    runner_labels: _containers.RepeatedScalarFieldContainer[str]
    trigger: str
    environment: str
    is_default_branch: bool
    is_fork: bool
    is_deploy: bool
    allow_failure: bool
    native_retries: int
    rerun_after: str
    queued_ms: int
    duration_ms: int
    def __init__(self, instance: _Optional[str] = ..., outcome: _Optional[str] = ..., commit_sha: _Optional[str] = ..., branch: _Optional[str] = ..., author: _Optional[str] = ..., logs_url: _Optional[str] = ..., artifacts_url: _Optional[str] = ..., url: _Optional[str] = ..., workflow: _Optional[str] = ..., workflow_id: _Optional[str] = ..., job_name: _Optional[str] = ..., job_number: _Optional[int] = ..., attempt: _Optional[int] = ..., vendor_status: _Optional[str] = ..., stage: _Optional[str] = ..., step: _Optional[str] = ..., runner: _Optional[str] = ..., runner_labels: _Optional[_Iterable[str]] = ..., trigger: _Optional[str] = ..., environment: _Optional[str] = ..., is_default_branch: _Optional[bool] = ..., is_fork: _Optional[bool] = ..., is_deploy: _Optional[bool] = ..., allow_failure: _Optional[bool] = ..., native_retries: _Optional[int] = ..., rerun_after: _Optional[str] = ..., queued_ms: _Optional[int] = ..., duration_ms: _Optional[int] = ...) -> None: ...

class FailureContext(_message.Message):
    __slots__ = ("exit_code", "error_patterns", "duration_ms", "reason", "excerpt", "tests_failed")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_PATTERNS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXCERPT_FIELD_NUMBER: _ClassVar[int]
    TESTS_FAILED_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    error_patterns: _containers.RepeatedScalarFieldContainer[str]
    duration_ms: int
    reason: str
    excerpt: str
    tests_failed: int
    def __init__(self, exit_code: _Optional[int] = ..., error_patterns: _Optional[_Iterable[str]] = ..., duration_ms: _Optional[int] = ..., reason: _Optional[str] = ..., excerpt: _Optional[str] = ..., tests_failed: _Optional[int] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...
