"""Bytes in, batches out: sources, decoding, attribution, and the pipeline that brings them to the store."""

from __future__ import annotations

from bandmeter.ingest.batch.job import FileReport, Job, Progress
from bandmeter.ingest.batch.tools import Tools
from bandmeter.ingest.files.pipeline import Pipeline

__all__ = ["FileReport", "Job", "Pipeline", "Progress", "Tools"]
