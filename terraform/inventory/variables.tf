variable "environment" {
  description = "Name of the environment: only what is tagged with it is listed."
  type        = string
}

variable "tags" {
  description = "Tags that everything listed has as well."
  type        = map(string)
  default     = {}
}

variable "role_pattern" {
  description = "Regular expression for the names of roles."
  type        = string
}
