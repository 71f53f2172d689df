variable "environment" {
  description = "Name of the environment: the first part of every name."
  type        = string
}

variable "tenant" {
  description = "Whose resources these are. The id never changes, and so no name does; the slug may, and is only a tag."
  type = object({
    id                   = string
    slug                 = string
    tier                 = string
    log_days             = optional(number, 30)
    secret_version       = optional(number, 1)
    secret_recovery_days = optional(number, 30)
    kms_deletion_days    = optional(number, 30)
    bucket_force_destroy = optional(bool, false)
  })
  validation {
    condition     = can(regex("^ten_[0-9a-v]{26}$", var.tenant.id))
    error_message = "A tenant's id is ten_ and 26 characters."
  }
  validation {
    condition     = contains(["pooled", "dedicated"], var.tenant.tier)
    error_message = "A tenant is pooled or dedicated."
  }
}

variable "platform" {
  description = "What the environment has for all tenants."
  type = object({
    account_id       = string
    region           = string
    shared_bucket    = string
    app_task_role_id = string
  })
}

variable "tenant_secret" {
  description = "What the tenant's secret holds. Ephemeral: it is in no state and no plan. Raise tenant.secret_version to set another."
  type        = string
  ephemeral   = true
  sensitive   = true
}
