variable "environment" {
  description = "Name of the environment: the first part of every name."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9]{0,11}$", var.environment))
    error_message = "An environment is up to 12 lower-case letters and digits, and begins with a letter: what comes after a hyphen in a name is never its."
  }
}

variable "network" {
  description = "The address range, how many availability zones, and whether each zone has a NAT gateway of its own (one is cheaper and a single point of failure)."
  type = object({
    cidr               = optional(string, "10.20.0.0/16")
    availability_zones = list(string)
    nat_per_zone       = optional(bool, false)
    flow_log_days      = optional(number, 30)
  })
  validation {
    condition     = can(cidrhost(var.network.cidr, 0)) && tonumber(split("/", var.network.cidr)[1]) <= 20
    error_message = "The address range is a CIDR of /20 or larger: each zone gets three subnets."
  }
  validation {
    condition     = length(var.network.availability_zones) >= 2 && length(var.network.availability_zones) <= 4
    error_message = "Between two and four availability zones: databases and load balancers need two."
  }
}
