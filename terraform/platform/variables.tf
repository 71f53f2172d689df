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
  })
}

variable "control" {
  description = "The server of the control database and of Terraform's own state: see modules/shard."
  type = object({
    instance_class = optional(string, "db.t4g.medium")
    storage_gib    = optional(number, 50)
    multi_az       = optional(bool, true)
  })
  default = {}
}

variable "cache" {
  description = "Redis: see modules/cache."
  type = object({
    node_type = optional(string, "cache.t4g.small")
    nodes     = optional(number, 2)
  })
  default = {}
}

variable "app" {
  description = "The image, its domain, how many of it: see modules/app. settings are environment variables; secret_arns name more secrets, by variable."
  type = object({
    image            = string
    base_domain      = string
    hosted_zone_id   = string
    server_count     = optional(number, 2)
    server_max       = optional(number, 8)
    worker_count     = optional(number, 2)
    broker_budget    = optional(number, 200)
    cpu_architecture = optional(string, "ARM64")
    alarm_topic_arn  = optional(string)
    settings         = optional(map(string), {})
    secret_arns      = optional(map(string), {})
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

variable "secrets_version" {
  description = "Raise it to write the three secrets below anew."
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
  description = "FREEHOLD_MASTER_KEY: 64 hexadecimal digits. Ephemeral: in no state and no plan. Keep it elsewhere as well: what it seals cannot be opened without it."
  type        = string
  ephemeral   = true
  sensitive   = true
  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.master_key))
    error_message = "The master key is 64 hexadecimal digits: openssl rand -hex 32"
  }
}
