"""Bytes in, batches out: sources, decoding, attribution, and the pipeline that brings them to the store."""

from __future__ import annotations

from bandmeter.ingest.pipeline import FileReport, Job, Pipeline, Progress

__all__ = ["FileReport", "Job", "Pipeline", "Progress"]
