variable "environment" {
  description = "Name of the environment: the first part of every name."
  type        = string
}

variable "app" {
  description = "The image, how many of it, and the settings that are no secrets."
  type = object({
    image               = string
    base_domain         = string
    hosted_zone_id      = string
    server_count        = optional(number, 2)
    server_max          = optional(number, 8)
    server_cpu          = optional(number, 1024)
    server_mib          = optional(number, 2048)
    worker_count        = optional(number, 2)
    worker_cpu          = optional(number, 512)
    worker_mib          = optional(number, 1024)
    broker_budget       = optional(number, 32)
    shard_connections   = optional(number, 600)
    log_days            = optional(number, 30)
    grace_seconds       = optional(number, 15)
    drain_seconds       = optional(number, 30)
    cpu_architecture    = optional(string, "ARM64")
    alarm_topic_arn     = optional(string)
    deletion_protection = optional(bool, true)
  })
  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.app.image))
    error_message = "The image is named by its digest (…@sha256:…): a tag may become another image."
  }
  validation {
    condition     = var.app.server_max >= var.app.server_count && var.app.server_count >= 2
    error_message = "At least two servers, so that one may be replaced; server_max is not below server_count."
  }
  # A worker has an admin's pool of 4 and 4 for tenants' jobs; some are left for people.
  validation {
    condition     = 2 * (var.app.broker_budget * var.app.server_max + 8 * var.app.worker_count) + 20 <= var.app.shard_connections
    error_message = "While a version is replaced there are twice as many servers and workers: 2 × (broker_budget × server_max + 8 × worker_count) + 20 connections are more than shard_connections, a shard's max_connections."
  }
  validation {
    condition     = contains(["ARM64", "X86_64"], var.app.cpu_architecture)
    error_message = "ARM64 or X86_64: what the image was built for."
  }
  validation {
    condition     = var.app.grace_seconds + var.app.drain_seconds <= 105
    error_message = "Grace and drain together are at most 105 seconds: ECS kills what takes longer than 120."
  }
}

variable "network" {
  description = "Where it stands, and the group that databases and Redis let in."
  type = object({
    vpc_id                = string
    public_subnet_ids     = list(string)
    task_subnet_ids       = list(string)
    app_security_group_id = string
  })
}

variable "settings" {
  description = "What the application is told, by environment variable: values that are no secrets."
  type        = map(string)
  default     = {}
}

variable "secrets" {
  description = "What the application is told and nobody may read, by environment variable: ARNs in Secrets Manager."
  type        = map(string)
}

variable "worker_secrets" {
  description = "The same for the workers alone: the shards' admin DSNs. What answers requests has none of them."
  type        = map(string)
  default     = {}
}

variable "secret_kms_key_arns" {
  description = "The keys of those secrets."
  type        = list(string)
  default     = []
}

variable "tenant_role_arn_pattern" {
  description = "The roles of tenants that the application may take on, with a * in the place of the tenant."
  type        = string
}

variable "shared_bucket_arn" {
  description = "The bucket of pooled tenants. The application reaches it only by tenants' roles; it is named here to be refused."
  type        = string
}
