variable "environment" {
  description = "Name of the environment: the first part of every name."
  type        = string
}

variable "shard" {
  description = "The database server: its name in the registry, its size, how it is kept."
  type = object({
    name = string
    # Without a minor version: AWS raises that one by itself, and it cannot be taken back. The major one is what the
    # tests run on.
    engine_version          = optional(string, "15")
    instance_class          = optional(string, "db.m7g.large")
    storage_gib             = optional(number, 100)
    storage_max_gib         = optional(number, 1000)
    max_connections         = optional(number, 600)
    multi_az                = optional(bool, true)
    backup_days             = optional(number, 14)
    deletion_protection     = optional(bool, true)
    final_snapshot          = optional(bool, true)
    secret_recovery_days    = optional(number, 30)
    log_days                = optional(number, 30)
    log_statements_over_ms  = optional(number, 1000)
    performance_insights    = optional(bool, true)
    admin_username          = optional(string, "freehold_admin")
    admin_password_version  = optional(number, 1)
    admin_database          = optional(string, "shard")
    maintenance_window      = optional(string, "sun:03:00-sun:04:00")
    backup_window           = optional(string, "01:00-02:00")
    minor_version_upgrade   = optional(bool, true)
    kms_deletion_after_days = optional(number, 30)
    alarm_topic_arn         = optional(string)
  })
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.shard.name))
    error_message = "A shard's name is up to 31 lower-case letters, digits and hyphens, and begins with a letter."
  }
  validation {
    condition     = var.shard.name != "control"
    error_message = "control is the platform's own database server."
  }
  validation {
    condition     = !var.shard.minor_version_upgrade || can(regex("^[0-9]+$", var.shard.engine_version))
    error_message = "With minor_version_upgrade the engine_version is the major one alone: AWS raises the other, and refuses to take it back."
  }
  validation {
    condition     = var.shard.storage_max_gib >= var.shard.storage_gib
    error_message = "storage_max_gib is at least storage_gib."
  }
  validation {
    condition     = var.shard.backup_days >= 7 && var.shard.backup_days <= 35
    error_message = "Backups are kept for 7 to 35 days."
  }
}

variable "network" {
  description = "Where it stands, and who may reach it."
  type = object({
    vpc_id                    = string
    data_subnet_ids           = list(string)
    client_security_group_ids = map(string)
  })
}

variable "admin_password" {
  description = "The admin's password. Ephemeral: it is in no state and no plan. Raise shard.admin_password_version to set another."
  type        = string
  ephemeral   = true
  sensitive   = true
}

variable "tenant_id" {
  description = "Whose shard it is, when it belongs to one dedicated tenant."
  type        = string
  default     = null
}
