"""Auditing: trying to break the certificates of a classifier as it is deployed."""

from concert.auditing.audit import AuditSettings, Finding, audit

__all__ = ["AuditSettings", "Finding", "audit"]
