terraform {
  required_version = ">= 1.11, < 2.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 6.0"
    }
  }

  # One state per environment, shard or tenant, in a database of its own. PG_CONN_STR says where; the workspace says which.
  backend "pg" {}
}
