"""The tables that Freehold's sample product has in each tenant's schema, and the two that django-tenants wants."""

from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Tenant(TenantMixin):
    auto_create_schema = False

    class Meta:
        managed = False
        db_table = "tenant"


class Domain(DomainMixin):
    class Meta:
        managed = False
        db_table = "domain"


class Project(models.Model):
    id = models.UUIDField(primary_key=True)
    name = models.TextField()
    description = models.TextField()
    status = models.TextField()
    version = models.BigIntegerField()
    created_by = models.TextField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "projects"


class Task(models.Model):
    id = models.UUIDField(primary_key=True)
    project = models.ForeignKey(Project, models.DO_NOTHING)
    title = models.TextField()
    description = models.TextField()
    status = models.TextField()
    priority = models.TextField()
    assignee = models.TextField(null=True)
    due_at = models.DateTimeField(null=True)
    version = models.BigIntegerField()
    created_by = models.TextField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "tasks"
