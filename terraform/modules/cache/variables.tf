variable "environment" {
  description = "Name of the environment: the first part of every name."
  type        = string
}

variable "cache" {
  description = "Redis holds the rate limits and nothing that may not be lost: small, two nodes so that a zone may go."
  type = object({
    engine_version     = optional(string, "7.2")
    node_type          = optional(string, "cache.t4g.small")
    nodes              = optional(number, 2)
    maintenance_window = optional(string, "sun:04:00-sun:05:00")
  })
  default = {}
  validation {
    condition     = var.cache.nodes >= 1 && var.cache.nodes <= 6
    error_message = "Between one and six nodes."
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
