variable "environment" {
  description = "Name of the environment: the first part of every name."
  type        = string
}

variable "network" {
  description = "The address range and zones: see modules/network."
  type = object({
    cidr               = optional(string, "10.20.0.0/16")
    availability_zones = list(string)
    nat_per_zone       = optional(bool, false)
    flow_log_days      = optional(number)
  })
}

variable "control" {
  description = "The server of the control database: see modules/shard, whose defaults hold for what is not said here."
  type = object({
    instance_class          = optional(string, "db.t4g.medium")
    storage_gib             = optional(number, 50)
    storage_max_gib         = optional(number)
    engine_version          = optional(string)
    max_connections         = optional(number)
    multi_az                = optional(bool)
    backup_days             = optional(number)
    final_snapshot          = optional(bool)
    secret_recovery_days    = optional(number)
    log_days                = optional(number)
    log_statements_over_ms  = optional(number)
    performance_insights    = optional(bool)
    maintenance_window      = optional(string)
    backup_window           = optional(string)
    minor_version_upgrade   = optional(bool)
    kms_deletion_after_days = optional(number)
  })
  default = {}
}

variable "cache" {
  description = "Redis: see modules/cache."
  type = object({
    engine_version     = optional(string)
    node_type          = optional(string)
    nodes              = optional(number)
    maintenance_window = optional(string)
  })
  default = {}
}

variable "app" {
  description = "The image, its domain, how many of it: see modules/app. settings are environment variables; secret_arns name more secrets, by variable."
  type = object({
    image             = string
    base_domain       = string
    hosted_zone_id    = string
    server_count      = optional(number)
    server_max        = optional(number)
    server_cpu        = optional(number)
    server_mib        = optional(number)
    worker_count      = optional(number)
    worker_cpu        = optional(number)
    worker_mib        = optional(number)
    broker_budget     = optional(number)
    shard_connections = optional(number)
    log_days          = optional(number)
    grace_seconds     = optional(number)
    drain_seconds     = optional(number)
    cpu_architecture  = optional(string)
    alarm_topic_arn   = optional(string)
    settings          = optional(map(string), {})
    secret_arns       = optional(map(string), {})
  })
}

variable "shards" {
  description = "The shards that stand: what the root shard/ said of each. A worker is told the admin's DSN of the shard eu-1 as FREEHOLD_SHARD_EU_1."
  type = map(object({
    admin_secret_arn = string
    kms_key_arn      = string
  }))
  default = {}
}

variable "deletion_protection" {
  description = "What holds data, and the way in, cannot be destroyed. Say false and apply before `terraform destroy`."
  type        = bool
  default     = true
}

variable "control_admin_password_version" {
  description = "Raise it to set another control_admin_password, and keep it raised: what it was before is a change as well."
  type        = number
  default     = 1
}

variable "control_admin_password" {
  description = "The control server's admin password. Ephemeral: in no state and no plan."
  type        = string
  ephemeral   = true
  sensitive   = true
}

variable "master_key" {
  description = "FREEHOLD_MASTER_KEY: 64 hexadecimal digits. Ephemeral: in no state and no plan. It is written once, by the first apply, and never again. Keep it elsewhere as well: what it seals cannot be opened without it."
  type        = string
  ephemeral   = true
  sensitive   = true
  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.master_key))
    error_message = "The master key is 64 hexadecimal digits: openssl rand -hex 32"
  }
}
